"""Figures from the literature, with the conditions that keep them from being compared with ours one to one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """psnr_db: as printed there. near: the task of the bench that comes nearest. read: where the figure was read."""

    task: str
    method: str
    psnr_db: str
    calls: str
    source: str
    conditions: str
    near: str
    read: str


PAPER, CITED = "in the paper", "in a reader's notes or another paper's table"
AAPM = "AAPM L067, 256², 448 slices, parallel beam, no noise, data made with the reconstruction's own operator"
CONE = "one AAPM volume of 256 x 256 x 300, cone beam; axial / coronal / sagittal"
DM4CT = "LoDoChallenge L506, 512², 2D, 20 views, 10,000 or 5,000 photons; trained on 8 volumes, range 2 of [-1, 1]"
LIDC = "LIDC 1 mm, 256², one image, noise 0.1; 23,040 training slices; mean of 50 samples"
KNEE = "fastMRI knee, 320², several coils, random lines, noise 0.01; range is each target's maximum"
BRAIN = "fastMRI brain, several coils, 100 slices, 30 dB"
DDS_KNEE = "fastMRI knee, 320², several coils, uniform lines"

ROWS: tuple[Published, ...] = (
    Published("CT 8 views", "DiffusionMBIR", "33.49", "4000", "DDS, ICLR 2024", AAPM, "ct8", CITED),
    Published("CT 8 views", "DDS (VE)", "33.43", "99", "DDS, ICLR 2024", AAPM, "ct8", CITED),
    Published("CT 8 views", "DDS (VP)", "33.86", "49", "DDS, ICLR 2024", AAPM, "ct8", CITED),
    Published("CT 30 views", "FDK", "23.91 / 23.92 / 23.79", "0", "ISCS, ICLR 2026", CONE, "ct30", CITED),
    Published("CT 30 views", "ADMM-TV", "32.94 / 33.67 / 33.72", "0", "ISCS, ICLR 2026", CONE, "ct30", CITED),
    Published("CT 30 views", "DDS", "34.76 / 35.12 / 35.33", "", "ISCS, ICLR 2026", CONE, "ct30", CITED),
    Published("CT 30 views", "DDS + TV", "36.26 / 37.08 / 37.50", "", "ISCS, ICLR 2026", CONE, "ct30", CITED),
    Published("CT 30 views", "DDS + ISCS", "36.97 / 37.75 / 38.16", "", "ISCS, ICLR 2026", CONE, "ct30", CITED),
    Published("CT 100 degrees", "DDS + TV", "31.40 / 33.33 / 32.83", "", "ISCS, ICLR 2026", CONE, "ct_la90", CITED),
    Published("CT 100 degrees", "DDS + ISCS", "31.65 / 32.90 / 32.49", "", "ISCS, ICLR 2026", CONE, "ct_la90", CITED),
    Published("CT 20 noisy views", "FBP", "9.89", "0", "DM4CT, ICLR 2026", DM4CT, "ct_lowdose", CITED),
    Published("CT 20 noisy views", "SIRT", "26.23", "0", "DM4CT, ICLR 2026", DM4CT, "ct_lowdose", CITED),
    Published("CT 20 noisy views", "ReSample", "27.92", "", "DM4CT, ICLR 2026", DM4CT, "ct_lowdose", CITED),
    Published("CT 20 noisy views", "SwinIR (supervised)", "29.92", "1", "DM4CT, ICLR 2026", DM4CT, "ct_lowdose", CITED),
    Published("CT 20 views", "DAPS", "28.23", "", "Qiu et al. 2026", LIDC, "ct15", PAPER),
    Published("CT 20 views", "DPS", "31.52", "", "Qiu et al. 2026", LIDC, "ct15", PAPER),
    Published("CT 20 views", "RED-diff", "31.31", "", "Qiu et al. 2026", LIDC, "ct15", PAPER),
    Published("CT 60 views", "DAPS", "35.15", "", "Qiu et al. 2026", LIDC, "ct60", PAPER),
    Published("CT 60 views", "DPS", "34.40", "", "Qiu et al. 2026", LIDC, "ct60", PAPER),
    Published("CT 60 views", "RED-diff", "37.75", "", "Qiu et al. 2026", LIDC, "ct60", PAPER),
    Published("MR R = 4", "DDS (VP)", "34.88", "99", "DDS, ICLR 2024", DDS_KNEE, "mr4", CITED),
    Published("MR R = 4", "Score-MRI", "33.25", "4000", "DDS, ICLR 2024", DDS_KNEE, "mr4", CITED),
    Published("MR R = 4", "DAPS", "33.00", "", "InverseBench protocol, Qiu et al. 2026", KNEE, "mr4", PAPER),
    Published("MR R = 4", "RED-diff", "35.18", "", "InverseBench protocol, Qiu et al. 2026", KNEE, "mr4", PAPER),
    Published("MR R = 8", "DAPS", "30.38", "", "InverseBench protocol, Qiu et al. 2026", KNEE, "mr8", PAPER),
    Published("MR R = 8", "RED-diff", "32.66", "", "InverseBench protocol, Qiu et al. 2026", KNEE, "mr8", PAPER),
    Published("MR R = 4", "wavelet", "27.75", "0", "SNaP 2026", BRAIN, "mr4", PAPER),
    Published("MR R = 4", "DAPS", "32.44", "1000", "SNaP 2026", BRAIN, "mr4", PAPER),
    Published("MR R = 4", "PnP-DM", "33.39", "1000", "SNaP 2026", BRAIN, "mr4", PAPER),
    Published("MR R = 4", "SNaP", "34.05", "16", "SNaP 2026", BRAIN, "mr4", PAPER),
    Published("MR R = 8", "wavelet", "23.81", "0", "SNaP 2026", BRAIN, "mr8", PAPER),
    Published("MR R = 8", "DAPS", "28.01", "1000", "SNaP 2026", BRAIN, "mr8", PAPER),
    Published("MR R = 8", "PnP-DM", "29.00", "1000", "SNaP 2026", BRAIN, "mr8", PAPER),
    Published("MR R = 8", "SNaP", "30.09", "16", "SNaP 2026", BRAIN, "mr8", PAPER),
)
