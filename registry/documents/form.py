"""The fields of the EU's Model Documentation Form, in its order.

Transparency chapter of the Code of Practice for general-purpose AI models (10 July 2025), which gathers what annexes XI
and XII of Regulation (EU) 2024/1689 ask for. Titles are shortened; the keys are ours. Fills in nothing.
"""

from __future__ import annotations

from typing import Final

FORM_NAME: Final = (
    "Model Documentation Form, Code of Practice for General-Purpose AI Models, Transparency chapter (10 July 2025)"
)

SECTIONS: Final[tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = (
    (
        "General information",
        (
            ("legalName", "Legal name of the model provider"),
            ("modelName", "Model name"),
            ("modelAuthenticity", "Model authenticity"),
            ("releaseDate", "Release date"),
            ("unionMarketReleaseDate", "Union market release date"),
            ("modelDependencies", "Model dependencies"),
        ),
    ),
    (
        "Model properties",
        (
            ("modelArchitecture", "Model architecture"),
            ("designSpecifications", "Design specifications of the model"),
            ("inputModalities", "Input modalities"),
            ("outputModalities", "Output modalities"),
            ("totalModelSize", "Total model size"),
        ),
    ),
    (
        "Methods of distribution and licences",
        (("distributionChannels", "Distribution channels"), ("licence", "Licence")),
    ),
    (
        "Use",
        (
            ("acceptableUsePolicy", "Acceptable use policy"),
            ("intendedUses", "Intended uses"),
            ("integration", "Type and nature of AI systems it can be integrated in"),
            ("technicalMeans", "Technical means for integration"),
            ("requiredHardware", "Required hardware"),
            ("requiredSoftware", "Required software"),
        ),
    ),
    (
        "Training process",
        (
            ("trainingDesign", "Design specifications of the training process"),
            ("decisionRationale", "Decision rationale"),
        ),
    ),
    (
        "Data used for training, testing and validation",
        (
            ("dataModalities", "Data type or modality"),
            ("dataProvenance", "Data provenance"),
            ("dataSelection", "How data was obtained and selected"),
            ("dataPoints", "Number of data points"),
            ("dataScope", "Scope and main characteristics"),
            ("dataCuration", "Data curation methodologies"),
            ("unsuitableData", "Measures to detect unsuitable data sources"),
            ("biases", "Measures to detect identifiable biases"),
        ),
    ),
    (
        "Computational resources",
        (
            ("trainingTime", "Training time"),
            ("computation", "Amount of computation used for training"),
            ("computationMethod", "Measurement methodology"),
        ),
    ),
    (
        "Energy consumption",
        (
            ("energy", "Energy used for training"),
            ("energyMethod", "Measurement methodology"),
            ("inferenceComputation", "Benchmarked computation for inference"),
            ("inferenceMethod", "Measurement methodology of the benchmark"),
        ),
    ),
)

FIELDS: Final = tuple(key for _, fields in SECTIONS for key, _ in fields)
