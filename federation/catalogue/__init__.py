"""Catalogue of class names: the federation's list of classes with their codes and synonyms.

A model knows a class by its name. If two hospitals gave one class two names, its head would grow
two rows. A new name is therefore proposed here first and compared with the names that exist. It may
be merged into another entry before any head grows; its name and synonyms then become synonyms of
that entry. Needs no torch.
"""
