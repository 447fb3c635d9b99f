"""The families of models, by the `model_type` of config.json: those that are supported, and why others are not."""

FAMILIES = frozenset(
    [
        "apertus",
        "arcee",
        "biogpt",
        "bloom",
        "codegen",
        "cohere",
        "cohere2",
        "ernie4_5",
        "exaone4",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gpt_oss",
        "gptj",
        "granite",
        "granitemoe",
        "helium",
        "hunyuan_v1_dense",
        "llama",
        "ministral3",
        "mistral",
        "mixtral",
        "mpt",
        "nemotron",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "opt",
        "persimmon",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
        "xglm",
    ]
)
"""Those of which a tiny model trains and answers as transformers' own code says (tests/tasks/models)."""
WITH_VISION = frozenset(["gemma3"])
"""Of these, families whose checkpoints see images too: what sees is kept as it is, neither trained nor asked."""

_RECURRENT = "it carries a recurrent state from token to token, and only attention's keys and values are kept here"
_ENCODER = "it reads a text in both directions and continues none"
_ENCODER_DECODER = "it has an encoder beside its decoder, and only decoders are trained and served"
_SHARED_EXPERTS = "peft takes the layers of its shared experts for those of its experts, as both have the same names"
OTHERS = (
    dict.fromkeys(
        [
            "bailing_hybrid",
            "bamba",
            "falcon_h1",
            "falcon_mamba",
            "granitemoehybrid",
            "jamba",
            "kimi_linear",
            "lfm2",
            "lfm2_moe",
            "mamba",
            "mamba2",
            "minimax",
            "nemotron_h",
            "olmo_hybrid",
            "qwen3_5",
            "qwen3_5_moe",
            "qwen3_next",
            "recurrent_gemma",
            "rwkv",
            "xlstm",
            "zamba",
            "zamba2",
        ],
        _RECURRENT,
    )
    | dict.fromkeys(["deepseek_v2", "deepseek_v3", "glm4_moe", "qwen2_moe"], _SHARED_EXPERTS)
    | dict.fromkeys(
        [
            "albert",
            "bert",
            "big_bird",
            "camembert",
            "deberta",
            "deberta-v2",
            "distilbert",
            "electra",
            "ernie",
            "modernbert",
            "mpnet",
            "rembert",
            "roberta",
            "roformer",
            "xlm-roberta",
            "xlnet",
        ],
        _ENCODER,
    )
    | dict.fromkeys(
        [
            "bart",
            "bigbird_pegasus",
            "blenderbot",
            "blenderbot-small",
            "led",
            "longt5",
            "m2m_100",
            "marian",
            "mbart",
            "mt5",
            "mvp",
            "pegasus",
            "plbart",
            "prophetnet",
            "switch_transformers",
            "t5",
            "t5gemma",
            "umt5",
            "whisper",
        ],
        _ENCODER_DECODER,
    )
)
"""Families that can't be supported as they are, and why."""
UNTESTED = "no test proves yet that it is trained and answers right"


def refusal(family: str) -> str | None:
    """Return why models of `family` are refused, in a clause; None if they are supported."""
    return None if family in FAMILIES else OTHERS.get(family, UNTESTED)
