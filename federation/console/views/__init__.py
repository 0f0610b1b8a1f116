"""View models: the data of each page, collected from the services, for templates and API.

Staff of a hospital see its cases, images and examples. Operators and auditors see counts and names
of all hospitals but no image ids of examples. Data that a visitor may not see is left out here, so
that no template has to hide it.
"""
