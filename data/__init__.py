"""Reading and writing of DICOM, NIfTI and raw k-space; used by the pipeline alone."""
