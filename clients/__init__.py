"""The client side of the Flower app: one generic ClientApp that carries any method; it names none."""
