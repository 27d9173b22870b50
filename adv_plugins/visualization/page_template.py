"""The HTML and CSS of a report, as a jinja2 template; nothing in it is loaded from elsewhere."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --page: #fff; --line: #d8dde3; --soft: #f2f5f8; --ink: #1c2733;
  --dim: #51606f; --link: #1f5fa8; --mark: #2f6fb5; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14191f; --line: #36414d; --soft: #1e262f; --ink: #dfe5ec; --dim: #a1adba;
    --link: #82b4f0; --mark: #5a97dd; }
  /* Charts have black lines on white: a card in the dark, and not a glaring one. */
  figure img, figure video { filter: brightness(.88); }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink);
  background: var(--page); max-width: 1180px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
a { color: var(--link); }
nav { background: var(--soft); border-radius: 6px; padding: .45rem .9rem; margin: .8rem 0; }
nav a { margin-right: 1.1rem; white-space: nowrap; text-decoration: none; }
nav + section h2 { margin-top: 1rem; padding-top: 0; border-top: 0; }
blockquote { margin: .8rem 0; padding: .1rem 1rem; border-left: 4px solid var(--mark);
  background: var(--soft); border-radius: 0 6px 6px 0; font-size: 1.05rem; }
blockquote p { margin: .55rem 0; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; margin: .6rem 0 1rem; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--soft); text-align: left; vertical-align: bottom; }
/* The first column names the rows, and stays where the others scroll. */
th:first-child, td:first-child { position: sticky; left: 0; min-width: 7rem; max-width: 22rem; }
td:first-child { background: var(--page); }
tbody tr:hover td { background: var(--soft); }
code { background: var(--soft); padding: 0 .25em; border-radius: 3px; font-size: .92em; }
pre { background: var(--soft); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; }
figure { margin: 1rem 0 1.4rem; }
figure img, figure video { max-width: 100%; height: auto; border: 1px solid var(--line);
  border-radius: 4px; display: block; background: #fff; }
figcaption, .files { color: var(--dim); font-size: 13.5px; margin-top: .35rem; }
details { margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px;
  padding: .4rem .9rem; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 640px) {
  body { padding: 1rem .8rem 3rem; font-size: 14.5px; }
  h1 { font-size: 1.35rem; }
  blockquote { font-size: 1rem; padding: .1rem .8rem; }
  nav { white-space: nowrap; overflow-x: auto; }
  th, td { padding: .28rem .45rem; min-width: 4rem; }
  th:first-child, td:first-child { max-width: 9rem; }
  /* Smaller, nobody could read what is in them. */
  figure img, figure video { max-width: none; width: max(100%, 36rem); }
}
@media print {
  nav, video { display: none; }
  .scroll { overflow: visible; }
  th:first-child, td:first-child { position: static; background: none; }
  figure, tr { break-inside: avoid; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if sections|length > 1 %}<nav>
{% for section in sections %}<a href="#section-{{ loop.index }}">{{ section.title }}</a>
{% endfor %}</nav>{% endif %}
{% for section in sections %}
<section id="section-{{ loop.index }}">
<h2>{{ section.title }}</h2>
{% if section.folded %}<details><summary>Show</summary>{% endif %}
{{ section.html|safe }}
{% if section.files %}
<p class="files">As files:
{% for target, name in section.files %}<a href="{{ target }}">{{ name }}</a>
{% endfor %}</p>
{% endif %}
{% for kind, source, caption in section.media %}
<figure>
<div class="scroll">
{% if kind == 'video' %}<video src="{{ source }}" controls loop muted playsinline autoplay></video>
{% else %}<img src="{{ source }}" alt="{{ caption }}">{% endif %}
</div>
<figcaption>{{ caption }}</figcaption>
</figure>
{% endfor %}
{% if section.folded %}</details>{% endif %}
</section>
{% endfor %}
</body>
</html>
"""
