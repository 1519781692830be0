"""Importing the SDK is quick and pulls in only what a lookup needs."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("feast", "faust", "torch", "ray", "deltalake", "confluent_kafka", "polars", "pandas", "starlette")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_sdk_loads_neither_engine_nor_registry_nor_training() -> None:
    code = f"import sys, featurestore; featurestore.FeatureStore; print([n for n in {HEAVY} if n in sys.modules])"
    assert run(code) == "[]"


def test_every_name_of_the_package_can_be_had() -> None:
    code = "import featurestore as f; print([n for n in f.__all__ if getattr(f, n) is None])"
    assert run(code) == "[]"


def test_a_command_imports_feast_without_torch_and_typeguard_and_takes_them_from_nobody_else() -> None:
    code = """
import sys
from featurestore.feast.slim import import_slim
import_slim()
import feast, typeguard
print("torch" in sys.modules, "typeguard" in feast.Entity.__init__.__code__.co_names, end=" ")
print("typeguard" in typeguard.typechecked(feast.Entity).__init__.__code__.co_names)
"""
    assert run(code) == "False False True"
