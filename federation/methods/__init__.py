"""The methods by name: one file, one paper."""

from federation.method import Method
from federation.methods.analytic import Analytic
from federation.methods.bic import BiC
from federation.methods.fedavg import FedAvg
from federation.methods.fedcurv import FedCurv
from federation.methods.fedka import FedKA
from federation.methods.fedntd import FedNTD
from federation.methods.fedprox import FedProx
from federation.methods.flwf2t import FLwF2T
from federation.methods.glfc import GLFC
from federation.methods.icarl import ICaRL
from federation.methods.lga import LGA
from federation.methods.lwm import LwM
from federation.methods.podnet import PODNet
from federation.methods.scaffold import SCAFFOLD

METHODS: dict[str, type[Method]] = {
    "fedavg": FedAvg,
    "fedka": FedKA,
    "bic": BiC,
    "glfc": GLFC,
    "icarl": ICaRL,
    "lga": LGA,
    "lwm": LwM,
    "podnet": PODNet,
    "fedprox": FedProx,
    "scaffold": SCAFFOLD,
    "fedntd": FedNTD,
    "fedcurv": FedCurv,
    "flwf2t": FLwF2T,
    "analytic": Analytic,
}
