"""In what format conversations are written for a model: a chat template, and what it is given besides."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from configs.strict import JsonObject, StrictModel

LONGEST_TEMPLATE = 65_536
"""Characters of a template; the longest of those that models come with has some 20,000."""
MOST_ARGUMENTS = 32
CHAT_TEMPLATE_FILE = "chat_template.jinja"
"""Where transformers saves a tokenizer's template."""
TemplateText = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEMPLATE, pattern=r"^[^\x00]*$")]
TemplateArguments = Annotated[JsonObject, Field(max_length=MOST_ARGUMENTS)]


class ChatFormat(StrictModel):
    """The fields that say how conversations are written."""

    chat_template: TemplateText | None = Field(
        None,
        description="Chat template: the name of one that the platform or the model has, or its text in Jinja; none: "
        "the model's own",
    )
    chat_template_kwargs: TemplateArguments | None = Field(
        None,
        description='What the template is given besides the conversation, such as {"enable_thinking": false}',
    )

    @classmethod
    def among(cls, settings: Mapping[str, Any]) -> "ChatFormat":
        """Return the chat format that stored settings hold; those of older versions hold none."""
        return ChatFormat.model_validate({name: settings.get(name) for name in ChatFormat.model_fields})

    @property
    def chat_format(self) -> "ChatFormat":
        """The fields of this class alone."""
        return ChatFormat(chat_template=self.chat_template, chat_template_kwargs=self.chat_template_kwargs)

    @property
    def is_own(self) -> bool:
        """Whether nothing is asked for but the model's own format."""
        return self.chat_template is None and not self.chat_template_kwargs
