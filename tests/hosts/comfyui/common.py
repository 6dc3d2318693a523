"""What several tests of this folder share."""


def failures(log: str) -> str:
    lines = log.splitlines()
    return "\n".join(line for line in lines if "IMPORT FAILED" in line or "Cannot import" in line)
