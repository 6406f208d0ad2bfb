'use strict';
// The examples of a score report: a table to search, sort and page through, and one
// response at a time as a heat map. Rows and tokens are created when they are shown,
// so that a thousand examples open at once. Text is inserted by textContent alone,
// never as HTML.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const $ = (id) => document.getElementById(id);
  const PAGE = 20;
  const named = (key) => new Set(data.examples.map((e) => e[key])).size > 1;
  const columns = [
    {key: 'rank', name: 'rank', digits: 0, about:
      'place by mean phi among all responses of its corpus; 1: the lowest'},
    {key: 'corpus', name: 'corpus', words: true, about: 'input that it is from'},
    {key: 'source', name: 'source', words: true, about:
      'what the row itself names as its source'},
    {key: 'kind', name: 'picked as', words: true, about:
      'lowest: of the lowest mean phi; median: near the median; random: any other'},
    {key: 'phi', name: 'mean phi', digits: 3, about: 'nats per token'},
    {key: 'z', name: 'z', digits: 2, about:
      'sum of phi / its standard deviation under the model; own samples: mean 0'},
    {key: 'p', name: 'p (PIT)', digits: 4, about:
      'p-value of the test that the model could have written it'},
    {key: 'length', name: 'tokens', digits: 0, about: 'of the response'},
    {key: 'text', name: 'response', wide: true, about: 'opens at a click'},
  ].filter((c) => !['corpus', 'source'].includes(c.key) || named(c.key));
  const phone = matchMedia('(max-width: 45rem)');
  const state = {key: 'phi', up: true, page: 0, open: null, shown: []};

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const number = (x, digits, sign = false) =>
    (sign && x > 0 ? '+' : '') + x.toFixed(digits).replace('-', '\u2212');

  // The table ------------------------------------------------------------------

  const matches = (example, words, corpus, kind) =>
    (!corpus || example.corpus === corpus) &&
    (!kind || (kind === 'rejected' ? example.rejected : example.kind === kind)) &&
    words.every((word) => example.searched.includes(word));

  const compare = (a, b) => {
    const [x, y] = [a[state.key], b[state.key]];
    const order = typeof x === 'string' ? x.localeCompare(y) : x - y;
    return (state.up ? order : -order) || a.index - b.index;
  };

  const select = () => {
    const words = $('search').value.toLowerCase().split(/\s+/).filter(Boolean);
    state.shown = data.examples
      .filter((e) => matches(e, words, $('corpus').value, $('kind').value))
      .sort(compare);
    const last = Math.max(Math.ceil(state.shown.length / PAGE) - 1, 0);
    state.page = Math.min(state.page, last);
    draw();
  };

  const cell = (example, column) => {
    const value = example[column.key];
    if (column.wide) {
      const button = make('button', {className: 'row', textContent: value});
      button.addEventListener('click', () => toggle(example));
      button.setAttribute('aria-expanded', String(example === state.open));
      return make('td', {className: 'c-text'}, button);
    }
    const text = column.words ? value : number(value, column.digits);
    return make('td', {
      className: `c-${column.key}${column.words ? ' words' : ''}`,
      textContent: text, title: text,
    });
  };

  // The response stands in a row of its own below that of the table.
  const rowsOf = (example) => {
    const opened = example === state.open;
    const row = make('tr', {className: opened ? 'open' : 'closed'},
      ...columns.map((column) => cell(example, column)));
    if (!opened) return [row];
    const shown = phone.matches ? 2 : columns.length;  // see score.css
    const within = make('td', {colSpan: shown}, ...detail(example));
    return [row, make('tr', {id: 'detail'}, within)];
  };

  const draw = () => {
    const first = state.page * PAGE;
    const rows = state.shown.slice(first, first + PAGE);
    $('rows').replaceChildren(...rows.flatMap(rowsOf));
    const count = state.shown.length;
    $('status').textContent = count
      ? `${first + 1}\u2013${first + rows.length} of ${count} examples`
      : 'no example matches';
    $('previous').disabled = state.page === 0;
    $('next').disabled = first + PAGE >= count;
    for (const header of document.querySelectorAll('.examples th')) {
      const here = header.dataset.key === state.key;
      const how = state.up ? 'ascending' : 'descending';
      header.setAttribute('aria-sort', here ? how : 'none');
    }
  };

  const sortBy = (key) => {
    state.up = state.key === key ? !state.up : true;
    state.key = key;
    state.page = 0;
    select();
  };

  // One response ---------------------------------------------------------------

  const color = (phi) => {
    const place = Math.sqrt(Math.min(Math.abs(phi) / data.limit, 1));
    const opacity = data.opacity * place;
    return `rgba(${phi < 0 ? data.below : data.above},${opacity.toFixed(2)})`;
  };

  const inspect = (example, i) => {
    const [log_p, entropy] = [example.log_p[i], example.entropy[i]];
    const token = data.vocabulary[example.tokens[i]];
    const alternatives = example.top[i].map(([id, p]) => make('li', {},
      make('code', {textContent: data.vocabulary[id]}),
      ` ${number(100 * p, 1)} %`));
    $('inspector').replaceChildren(
      make('code', {textContent: token}),
      ` token ${i + 1}: log p ${number(log_p, 3)}, H ${number(entropy, 3)},` +
      ` phi ${number(log_p + entropy, 3, true)} nats; p =` +
      ` ${number(100 * Math.exp(log_p), 2)} %`,
      make('ol', {ariaLabel: 'the likeliest tokens here'}, ...alternatives));
  };

  const heatMap = (example) => {
    const box = make('div', {className: 'text', id: 'tokens'});
    box.setAttribute('role', 'group');
    box.setAttribute('aria-label', 'tokens; arrow keys move between them');
    const between = new Map(example.between);
    example.tokens.forEach((id, i) => {
      if (between.has(i)) {
        box.append(make('span', {
          className: 'between', textContent: `\n${between.get(i)}\n`}));
      }
      const token = make('span', {
        className: 'token', tabIndex: i ? -1 : 0,
        textContent: data.vocabulary[id].replaceAll('\u21b5', '\u21b5\n'),
      });
      token.style.background = color(example.log_p[i] + example.entropy[i]);
      token.dataset.index = i;
      box.append(token);
    });
    const index = (event) => {
      const token = event.target.closest('.token');
      if (token) inspect(example, Number(token.dataset.index));
    };
    box.addEventListener('mouseover', index);
    box.addEventListener('focusin', index);
    box.addEventListener('keydown', (event) => {
      const tokens = box.querySelectorAll('.token');
      const i = Number(event.target.dataset.index);
      const to = {
        ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tokens.length - 1,
      }[event.key];
      if (to === undefined || !tokens[to]) return;
      event.preventDefault();
      tokens[i].tabIndex = -1;
      tokens[to].tabIndex = 0;
      tokens[to].focus();
    });
    return box;
  };

  const detail = (example) => {
    const rest = example.length - example.tokens.length;
    const facts = [
      `${example.corpus}, row ${example.line}`,
      `mean phi ${number(example.phi, 3, true)}`, `z ${number(example.z, 2, true)}`,
      `p ${example.p.toPrecision(2)}`,
      example.rejected ? 'rejected' : 'not rejected',
      `perplexity ${number(example.perplexity, 2)}`, `${example.length} tokens`,
    ];
    const inspector = make('div', {className: 'inspector', id: 'inspector',
      textContent: 'Point at a token or tap it, or use Tab and the arrow keys.'});
    inspector.setAttribute('aria-live', 'polite');
    return [
      make('h3', {textContent: facts.join(' \u00b7 '), tabIndex: -1}),
      make('div', {className: 'note', textContent: 'prompt'}),
      make('div', {className: 'text', textContent: example.prompt}),
      make('div', {className: 'note', textContent: rest > 0
        ? `response, its first ${example.tokens.length} tokens` : 'response'}),
      heatMap(example), inspector,
    ];
  };

  const toggle = (example) => {
    state.open = example === state.open ? null : example;
    draw();
    const row = state.shown.indexOf(example) - state.page * PAGE;
    const focused = state.open ? document.querySelector('#detail h3')
      : document.querySelectorAll('#rows .row')[row];
    focused?.focus({preventScroll: true});
  };

  // Start ------------------------------------------------------------------

  data.examples.forEach((example, index) => {
    example.index = index;
    example.text = example.tokens.map((id) => data.vocabulary[id]).join('');
    const between = example.between.map(([, text]) => text).join(' ');
    example.searched = `${example.prompt} ${between} ${example.text}`.toLowerCase();
  });
  for (const column of columns) {
    const button = make('button', {textContent: column.name, title: column.about});
    button.addEventListener('click', () => sortBy(column.key));
    const header = make('th', {scope: 'col'}, button);
    const how = column.words ? ' words' : '';
    header.className = `c-${column.key}${how}`;
    header.dataset.key = column.key;
    $('headers').append(header);
  }
  for (const name of new Set(data.examples.map((e) => e.corpus))) {
    $('corpus').append(make('option', {value: name, textContent: name}));
  }
  for (const id of ['search', 'corpus', 'kind']) {
    $(id).addEventListener('input', () => { state.page = 0; select(); });
  }
  for (const [id, step] of [['previous', -1], ['next', 1]]) {
    $(id).addEventListener('click', () => { state.page += step; draw(); });
  }
  $('rows').addEventListener('keydown', (event) => {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    const buttons = [...document.querySelectorAll('#rows .row')];
    const to = buttons[buttons.indexOf(event.target) + step];
    if (!step || !to) return;
    event.preventDefault();
    to.focus();
  });
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !state.open) return;
    document.querySelector('#rows tr.open .row')?.focus();
  });
  phone.addEventListener('change', () => draw());
  // One is open from the start, to show what the others have.
  state.open = data.examples.reduce((a, b) => (b.phi < a.phi ? b : a));
  select();
})();
