"""How images come into a hospital: watched folder, quarantine, de-identification, DICOM receiver. Knows no model and no server."""
