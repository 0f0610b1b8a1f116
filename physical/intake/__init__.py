"""How images come into a hospital.

Watched folder, quarantine, de-identification, DICOM receiver.
"""
