"""The clinician's console of one hospital's twin: cases, who may decide what, what was decided."""
