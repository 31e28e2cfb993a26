"""The server side of the Flower app: one generic Strategy that carries any method; it names none."""
