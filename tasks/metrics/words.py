"""Words of a text in any script: what BLEU, ROUGE-L and distinct-2 count.

Where a script puts no spaces between words, each character counts as one, with the marks that belong to it, as in
sacrebleu's tokenizer `zh`: the field's way to compare such texts without a dictionary for each language.
"""

from unicodedata import normalize

import regex

TOKENIZER = "words; single characters where a script has no spaces"
"""How texts are split, in the words that an evaluation shows."""

# The sign for a long vowel belongs to both Japanese scripts, and in Unicode to neither.
_CHARACTER = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}ーｰ\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"  # scripts without spaces
)
_FULL_WIDTH_PUNCTUATION = r"[\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
_ALONE = regex.compile(rf"{_CHARACTER}\p{{M}}*|{_FULL_WIDTH_PUNCTUATION}")
_WORD = regex.compile(rf"{_CHARACTER}\p{{M}}*|(?:(?!{_CHARACTER})[\p{{L}}\p{{N}}\p{{M}}])+")


def separated(text: str) -> str:
    """Return the text with spaces around each character of a script without spaces, and around its punctuation.

    A text without such characters is returned as it is.
    """
    separate: str = _ALONE.sub(r" \g<0> ", text)
    return separate


def words(text: str) -> list[str]:
    """Return the text's words in lower case, without punctuation: runs of letters, digits and their marks.

    A text in ASCII gives the words of rouge_score, before stemming.
    """
    found: list[str] = _WORD.findall(normalize("NFC", text.lower()))
    return found
