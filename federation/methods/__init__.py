"""The methods by name: one file, one paper."""

from federation.method import Method
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA

METHODS: dict[str, type[Method]] = {
    "fedavg": FedAvg,
    "fedka": FedKA,
}
