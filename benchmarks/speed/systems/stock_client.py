"""The client of a stock Flower app, one node per client: load the model from the message, train, send it back.

``client = "quickstart"`` is Flower's PyTorch quickstart (a new module, a DataLoader and an optimizer per message);
"staged" keeps module and rows in the process and indexes batches, as fast as a user would make it; "echo" sends the model back.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.speed.inputs import Inputs
from benchmarks.speed.systems.loop import Loop
from benchmarks.speed.systems.quickstart import quickstart

app = ClientApp()


@lru_cache(maxsize=1)
def loop_of(folder: str) -> Loop:
    """This process's module and staged rows."""
    return Loop(Inputs(Path(folder)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """One client's round."""
    torch.set_num_threads(1)
    client, kind = int(context.node_config["partition-id"]), str(context.run_config["client"])
    loop = loop_of(str(context.run_config["inputs"]))
    arrays = message.content["arrays"]
    round = int(message.content["config"]["server-round"]) - 1  # type: ignore[index, call-overload, arg-type]
    assert isinstance(arrays, ArrayRecord)
    if kind == "echo":
        count = len(loop.inputs.order(round, client)[0])
    else:
        state = arrays.to_torch_state_dict()
        if kind == "quickstart":
            module, count = quickstart(loop.inputs, round, client, state)
        else:
            count = loop.train(round, client, list(state.values()))
            module = loop.module
        arrays = ArrayRecord(module.state_dict())
    metrics = MetricRecord({"num-examples": count, "client": client})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
