"""FedKA's ablations: not methods but settings of ``federation.methods.fedka``.

Source: FedKA, table 11. Each name says what is changed in FedKA's fields, as ``replace(FedKA(),
**ABLATIONS["wo_adl"])`` does.
"""

ABLATIONS: dict[str, dict[str, float | bool]] = {
    "full": {},
    "wo_cbl": {
        "classification_weighted": False
    },  # L_CB becomes cross-entropy, its weight alpha stays
    "wo_sdl": {"semantic_weight": 0.0},  # without L_SD
    "wo_adl": {"attention_weight": 0.0},  # without L_AD
    "wo_wadl": {
        "attention_weighted": False
    },  # L_AD becomes L_Q: attention without gradient weights
}
