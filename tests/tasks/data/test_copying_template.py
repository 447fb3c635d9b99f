import pytest

from tasks.data.copying_template import only_copies
from tests.tiny_models import CHAT_TEMPLATE


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        "{{ messages[0]['content'] }}",
        "{% for m in messages[1:] %}{{ '<' + m['role'] | upper + '>' + m.content ~ '\n' }}{% endfor %}",
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ 'be kind' }}{% endif %}"
        "{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ bos_token }}{% endif %}",
        "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_puts_contents_between_fixed_texts_is_known_for_it(template):
    assert only_copies(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content | trim }}",
        "{{ messages[0]['content'].strip() }}",
        "{{ messages[0]['content'][0] }}",
        "{{ [messages[0].content] | join('') }}",
        "{{ messages | tojson }}",
        "{{ strftime_now('%Y') }}",
        "{% for m in messages %}{{ ('a' ~ m.content) | trim }}{% endfor %}",
        "{% for m in messages %}{{ m.content * 2 }}{% endfor %}",
        "{% for m in messages %}{{ 'long' if m.content | length > 9 }}{% endfor %}",
        "{% for m in messages %}{% if m.content == 'x' %}y{% endif %}{% endfor %}",
        "{% for m in messages if m.content %}y{% endfor %}",
        "{% for m in messages %}{{ m }}{% endfor %}",
        "{% for m in messages %}{{ m['cont' + 'ent'] }}{% endfor %}",
        "{% for m in messages %}{% for field in m %}{{ m[field] }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{{ loop.previtem.content }}{% endfor %}",
        "{% for m in messages %}{% if loop.changed(m.content) %}y{% endif %}{% endfor %}",
        "{% set first = messages[0] %}{{ first.content | trim }}",
        "{% for m in messages | reverse %}{{ m.content }}{% endfor %}",
        "{% macro turn(m) %}{{ m.content | trim }}{% endmacro %}{{ turn(messages[0]) }}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
        "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
        "{% for m in messages %",
    ],
)
def test_a_template_that_does_more_is_not_taken_for_one(template):
    assert not only_copies(template)
