"""A bucket on a real S3 server on loopback; the fixtures are in ``pipeline/conftest.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIAQXR5EXAMPLE", "bPxRfiCYEXAMPLEKEYofnobody"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Bucket:
    """A bucket of its own for each test."""

    client: Any
    name: str

    def address(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, folder: Path, prefix: str) -> str:
        """Put the files below a folder there, and return the address."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.client.upload_file(str(file), self.name, f"{prefix}/{file.relative_to(folder).as_posix()}")
        return self.address(prefix)

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return content

    def keys(self, prefix: str) -> set[str]:
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=f"{prefix}/").get("Contents", [])
        return {each["Key"].removeprefix(f"{prefix}/") for each in found}
