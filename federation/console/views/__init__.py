"""What one page shows, put together from the services: plain frozen values for templates and for the API. Changes nothing.

Somebody of a hospital sees that hospital's cases, images and examples; operators and auditors see counts and names of all, and no image ids
of examples. What is not theirs to see is not in the value, so that no template has to remember it.
"""
