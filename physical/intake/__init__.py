"""Image intake of a hospital: watched folder, de-identification, quarantine, DICOM receiver."""
