"""The federation-wide catalogue of class names: what a class is called, by whom, with which code, and what else it is called.

A class of a model is a name; two hospitals that mean one thing by two names would grow two rows. So a new name is proposed here first, is
compared with what there is, and may be merged before any head grows: its words become synonyms of the name that stays. Knows no case, no
image and no model; needs no torch.
"""
