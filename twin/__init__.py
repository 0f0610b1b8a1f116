"""Digital twins: one for each hospital, which mirrors its images and trains locally."""
