"""The pages as Jinja2 templates in Python strings: one shell with its style sheet, and the pages of a run, a comparison, a
study and an audit.

Everything is inside the file: no script, no font, no image is fetched. Autoescape is on, because labels, notes and
failure messages come from others.
"""

from __future__ import annotations

from typing import Any

from fedkd.report.style import page_colours
from fedkd.verdict import check_words

_CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1f2328;--soft:#59636e;--line:#d8dee4;--card:#f6f8fa;--mark:#0072b2;
--warn:#9a3412;--warnbg:#fff4ec}
@media screen and (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9da7b3;--line:#3d444d;
--card:#161b22;--mark:#4ba3e3;--warn:#ffb088;--warnbg:#2b1a10}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:52rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.15rem;line-height:1.3;margin:2.6rem 0 .7rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.5rem 0 .5rem}
p{margin:.6rem 0}
a{color:var(--mark)}
.under{color:var(--soft);margin:0 0 1.4rem;overflow-wrap:anywhere}
.verdict{font-size:1.06rem;border-left:4px solid var(--mark);background:var(--card);padding:.9rem 1.1rem;
margin:0 0 1.4rem;border-radius:0 6px 6px 0}
.verdict.bad{border-color:var(--warn);background:var(--warnbg)}
.verdict.open{border-color:var(--soft)}
.verdict b{display:block;font-size:.85rem;font-weight:500;color:var(--soft)}
.verdict b+b{margin-top:.5rem}
.lines{margin:.35rem 0 0;padding:0;list-style:none}
.lines li{display:grid;grid-template-columns:1fr 1fr;gap:0 1.2rem;margin:.35rem 0;overflow-wrap:anywhere;line-height:1.45}
.lines span{color:var(--soft);font-size:.88rem;line-height:1.6}
.numbers+.table,.table+.table,figure+.table,p+.table{margin-top:1.1rem}
td.r,th.r{text-align:right}
tbody th.s{min-width:0}tbody th.lead{min-width:15rem}td.note{min-width:9rem;overflow-wrap:anywhere}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.6rem;margin:0;padding:0}
.numbers div{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem}
.numbers dt{color:var(--soft);font-size:.8rem;line-height:1.3}
.numbers dd{margin:.15rem 0 0;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.25}
.numbers small{font-size:.8rem;font-weight:400;color:var(--soft)}
figure{margin:1rem 0 0}
figure svg{display:block;width:100%;min-width:32rem;height:auto}
figcaption{color:var(--soft);font-size:.9rem;line-height:1.5;margin-top:.5rem}
.drawing,.table{overflow-x:auto;-webkit-overflow-scrolling:touch}
.table{width:max-content;min-width:100%;max-width:min(100vw - 2.5rem,84rem);margin-left:50%;transform:translateX(-50%)}
.drawing{border:1px solid var(--line);border-radius:6px;padding:.7rem;background:
linear-gradient(to right,var(--fig-paper) 40%,transparent) 0 0/3rem 100% no-repeat local,
linear-gradient(to left,var(--fig-paper) 40%,transparent) 100% 0/3rem 100% no-repeat local,
linear-gradient(to right,var(--line),transparent) 0 0/.9rem 100% no-repeat scroll,
linear-gradient(to left,var(--line),transparent) 100% 0/.9rem 100% no-repeat scroll,var(--fig-paper)}
table{border-collapse:collapse;font-size:.9rem;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:.9rem;padding-bottom:.4rem}
th,td{text-align:left;padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{font-weight:600;border-bottom:2px solid var(--line);vertical-align:bottom;line-height:1.3}
tbody th{font-weight:500;min-width:8.5rem}
tbody th.n{min-width:0}
td.n,th.n{text-align:right}
td.n{white-space:nowrap}
td.code,tbody th.code{font:.82rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:nowrap}
td.wide{min-width:16rem;overflow-wrap:anywhere}
td.long{font:.82rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere;min-width:12rem}
tr.best td,tr.best th{font-weight:650}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.75rem .9rem;overflow-x:auto;
font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
ul.notes{margin:.6rem 0;padding-left:1.2rem;color:var(--soft);font-size:.92rem}
summary{cursor:pointer;color:var(--soft);font-size:.95rem}
details{margin:.5rem 0}
details[open] summary{margin-bottom:.6rem}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media (max-width:34rem){main{padding:1.2rem .9rem 3rem}.table{max-width:100%}h1{font-size:1.4rem}.numbers dd{font-size:1.12rem}
.numbers{grid-template-columns:repeat(2,1fr)}.lines li{grid-template-columns:1fr;margin:.5rem 0}
.verdict{padding:.75rem .85rem;font-size:1rem}.drawing{padding:.4rem}}
@media print{body{font-size:10.5pt}main{max-width:none;padding:0}figure,.numbers div,tr,.verdict{break-inside:avoid}
h2{break-after:avoid}.drawing,.table{overflow:visible}.table{max-width:100%}figure svg{min-width:0}}
"""

MACROS = """{% macro figure(picture, titled=false) %}
<figure id="{{ picture.name }}">
<div class="drawing" tabindex="0" role="group" aria-label="{{ picture.title }}">{{ picture.inline | markup }}</div>
<figcaption>{% if titled %}<b>{{ picture.title }}.</b> {% endif %}{{ picture.caption }}</figcaption>
</figure>
{% endmacro %}
{% macro table(grid, captioned=true) %}
<div class="table" tabindex="0" role="group" aria-label="{{ grid.title }}"><table>
{% if captioned %}<caption>{{ grid.title }}</caption>{% endif %}

<thead><tr>
{%- for head in grid.head -%}
<th scope="col" class="{{ grid.kinds[loop.index0] }}">{{ head }}</th>
{%- endfor -%}
</tr></thead>
<tbody>
{% for row in grid.rows %}
<tr{% if loop.index0 == grid.best %} class="best"{% endif %}>
{%- for cell in row -%}
{%- if loop.first %}<th scope="row" class="{{ grid.kinds[0] }}">{{ cell }}</th>
{%- else %}<td class="{{ grid.kinds[loop.index0] }}">{{ cell }}</td>{% endif -%}
{%- endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro verdict_cards(cards) %}
{% for card in cards %}
<div class="verdict {{ card.look }}"><b>{{ card.title }}</b>
<ul class="lines">
{% for line in card.lines %}
<li><span>{{ line.group }}</span> {{ line.text }}</li>
{% endfor %}
</ul></div>
{% endfor %}
{% endmacro %}
"""

SHELL = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
{% block head %}{% endblock %}
<style>{{ css | markup }}</style>
</head>
<body>
<main>
{% block content %}{% endblock %}
<footer>Written by fedkd {{ version }}. This file is complete in itself: it loads nothing from anywhere.</footer>
</main>
</body>
</html>
"""

RUN = """{% extends "shell" %}{% from "macros" import figure, table, verdict_cards %}
{% block content %}
<h1>{{ title }}</h1>
<p class="under">{{ subtitle }}</p>
<p class="verdict{% if bad %} bad{% endif %}">{{ verdict | join(" ") }}</p>
<dl class="numbers">
{% for number in numbers %}
<div><dt>{{ number.name }}</dt>
<dd>{{ number.value }}{% if number.unit %} <small>{{ number.unit }}</small>{% endif %}</dd></div>
{% endfor %}
</dl>
<h2>Privacy audit</h2>
{% if audit %}{{ verdict_cards(audit.cards) }}<p>{{ audit.summary }} <a href="audit/audit.html">The audit in full</a>.</p>
{% else %}<p>{{ not_audited }}</p>
{% endif %}
{% for picture in pictures %}
<h2>{{ picture.title }}</h2>
{{ figure(picture) }}
{% else %}
<h2>Figures</h2>
<p>Nothing was recorded that could be drawn.</p>
{% endfor %}
{% for grid in statements %}
<h2>{{ grid.title }}</h2>
{{ table(grid) }}
{% endfor %}
<h2>Failures</h2>
<p>{{ failures_text }}</p>{% if failures %}{{ table(failures) }}{% endif %}
<h2>Configuration</h2>
{% for grid in configuration %}
<details{% if loop.first %} open{% endif %}><summary>{{ grid.title }}</summary>{{ table(grid, false) }}</details>
{% else %}
<p>No configuration was recorded.</p>
{% endfor %}
<h2>Environment</h2>
{% if environment %}{{ table(environment) }}{% else %}<p>No environment was recorded.</p>{% endif %}
<h2>How to reproduce</h2>
{% for line in reproduce %}
<p>{{ line }}</p>{% if loop.first and command %}<pre>{{ command }}</pre>{% endif %}

{% endfor %}
{% if notes %}<h2>Notes</h2><ul class="notes">{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
{% endblock %}
"""

COMPARISON = """{% extends "shell" %}{% from "macros" import figure, table %}
{% block content %}
<h1>{{ title }}</h1>
<p class="under">{{ subtitle }}</p>
<p class="verdict">{{ sentence }} {{ privacy }}</p>
<h2>Methods</h2>
{{ table(methods) }}
<p class="under">{{ reading }}</p>
{% for picture in pictures %}
<h2>{{ picture.title }}</h2>
{{ figure(picture) }}
{% endfor %}
{% if differences %}<h2>Every seed's difference</h2>{{ table(differences) }}{% endif %}
<h2>Notes</h2>
<ul class="notes">{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endblock %}
"""

STUDY = """{% extends "shell" %}{% from "macros" import figure, table %}
{% block content %}
<h1>{{ title }}</h1>
<p class="under">{{ subtitle }}</p>
{% for line in verdicts %}
<p class="verdict{% if line.bad %} bad{% endif %}">{{ line.text }}</p>
{% endfor %}
{% for part in sections %}
<h2>{{ part.title }}</h2>
{% for line in part.lines %}<p>{{ line }}</p>{% endfor %}

{% if part.table %}{{ table(part.table, part.table.title != part.title) }}{% endif %}
{% if part.picture %}{{ figure(part.picture) }}{% endif %}
{% endfor %}
<h2>How to reproduce</h2>
<pre>{{ command }}</pre>
<h2>Limits</h2>
<ul class="notes">{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endblock %}
"""


AUDIT = """{% extends "shell" %}{% from "macros" import figure, table, verdict_cards %}
{% block head %}<meta name="{{ mark }}" content="{{ sha256 }}">{% endblock %}

{% block content %}
<h1>{{ title }}</h1>
<p class="under">{{ subtitle }}</p>
<p>{{ summary }}</p>
{{ verdict_cards(cards) }}
{% for part in sections %}
<h2 id="{{ part.key }}">{{ part.title }}</h2>
{% for block in part.blocks %}
{% if block.kind == "text" %}<p>{{ block.value }}</p>
{% elif block.kind == "heading" %}<h3>{{ block.value }}</h3>
{% elif block.kind == "table" %}{{ table(block.value) }}
{% elif block.kind == "bare" %}{{ table(block.value, false) }}
{% elif block.kind == "folded" %}<details><summary>{{ block.value.title }}</summary>{{ table(block.value, false) }}</details>
{% elif block.kind == "picture" %}{{ figure(block.value, true) }}
{% elif block.kind == "code" %}<pre>{{ block.value }}</pre>
{% elif block.kind == "list" %}<ul class="notes">{% for line in block.value %}<li>{{ line }}</li>{% endfor %}</ul>
{% elif block.kind == "numbers" %}
<dl class="numbers">
{% for number in block.value %}
<div><dt>{{ number.name }}</dt>
<dd>{{ number.value }}{% if number.unit %} <small>{{ number.unit }}</small>{% endif %}</dd></div>
{% endfor %}
</dl>
{% endif %}

{% endfor %}
{% endfor %}
{% endblock %}
"""


def render(template: str, values: dict[str, Any]) -> str:
    """One of the pages, ``"run"``, ``"comparison"``, ``"study"`` or ``"audit"``, as HTML text.

    Raises: jinja2.UndefinedError where a value that the template prints is missing; ConfigError where the page would
        contain a word that no report may use.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    import fedkd

    pages = {"macros": MACROS, "shell": SHELL, "run": RUN, "comparison": COMPARISON, "study": STUDY, "audit": AUDIT}
    environment = Environment(loader=DictLoader(pages), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)  # fmt: skip
    environment.filters["markup"] = Markup
    page = environment.get_template(template)
    css = (_CSS + page_colours()).replace("\n", "")
    return check_words(page.render(css=css, version=fedkd.__version__, **values).strip() + "\n")
