const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
let view = 'bytes';
let shown = [];
let chosen = null;
let running = null;

function node(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function shape(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const colour = (message) => `hsl(${(message * 137.5 + 190) % 360} var(--bar-s) var(--bar-l))`;
const time = (us) => us < 1000 ? `${us} µs` : `${(us / 1000).toFixed(us < 10000 ? 2 : 1)} ms`;
const count = (number, word) => `${number} ${word}${number === 1 ? '' : 's'}`;

/* Returns start and end of a block on the common scale. A datagram gets the offset that its bytes
   would have in a stream. */
function place(outcome, block) {
  if (outcome.transport === 'tcp') return [block.offset, block.offset + block.len];
  const start = block.offset * Number(outcome.knobs.size);
  return [start, start + block.len];
}
function messagesIn(outcome, start, end) {
  const found = [];
  outcome.sends.forEach((send, index) => {
    const [from, to] = place(outcome, send);
    if (from < end && to > start) found.push({ index, from: Math.max(from, start), to: Math.min(to, end) });
  });
  return found;
}

/* Draws a row of bars, one bar for each block. */
function drawRow(outcome, name, blocks, width, scale) {
  const height = 34;
  const row = shape('svg', {
    class: 'row', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', tabindex: 0, role: 'group',
    'aria-label': `${name}: ${blocks.length}. Use the left and right arrow keys to move between them.`,
  });
  if (view === 'bytes') {
    for (const send of outcome.sends.slice(1)) {
      const x = scale(place(outcome, send)[0]);
      row.append(shape('line', { class: 'guide', x1: x, x2: x, y1: 0, y2: height }));
    }
  }
  const singular = name.replace(/s$/, '');
  blocks.forEach((block, index) => {
    const [start, end] = place(outcome, block);
    const messages = messagesIn(outcome, start, end);
    const bar = shape('g', { class: 'bar', 'data-name': singular, 'data-index': index });
    if (view === 'bytes') {
      const x = scale(start), w = Math.max(scale(end) - x, 1), gap = Math.min(1, w / 6);
      for (const part of messages) {
        const left = scale(part.from), right = scale(part.to);
        bar.append(shape('rect', {
          x: left + (part.from === start ? gap : 0), y: 4, height: height - 8, fill: colour(part.index),
          width: Math.max(right - left - (part.from === start ? gap : 0) - (part.to === end ? gap : 0), .4),
          rx: messages.length === 1 ? Math.min(4, w / 4) : 0,
        }));
        if (right - left > 17) {
          bar.append(shape('text', { x: (left + right) / 2, y: height / 2 }, String(part.index)));
        }
      }
      if (block.header) {
        const header = scale(start + block.header) - x;
        bar.append(shape('rect', { class: 'header', x: x + gap, y: 4, width: Math.max(header - gap, .5), height: height - 8 }));
      }
      bar.append(shape('rect', { class: 'edge', x: x + 1, y: 3, width: Math.max(w - 2, .5), height: height - 6, rx: Math.min(4, w / 4) }));
    } else {
      const x = scale(block.t_us);
      bar.classList.add('dot');
      const first = messages.length ? messages[0].index : index;
      bar.append(shape('rect', { x: x - 3, y: 5, width: 6, height: height - 10, rx: 3, fill: colour(first) }));
      bar.append(shape('rect', { class: 'edge', x: x - 4, y: 4, width: 8, height: height - 8, rx: 4 }));
    }
    bar.tip = describe(outcome, singular, index, block, messages);
    bar.addEventListener('pointerenter', (event) => show(bar, event));
    bar.addEventListener('pointerleave', hide);
    row.append(bar);
  });
  if (outcome.transport === 'udp' && name === 'received' && view === 'bytes') {
    const received = new Set(blocks.map((block) => block.offset));
    outcome.sends.forEach((send) => {
      if (received.has(send.offset)) return;
      const [start, end] = place(outcome, send);
      const x = scale(start) + 1;
      row.append(shape('rect', { class: 'lost', x, y: 5, height: height - 10, rx: 3, width: Math.max(scale(end) - x - 1, 1) }));
    });
  }
  row.addEventListener('keydown', (event) => step(row, event));
  row.addEventListener('blur', hide);
  return row;
}
function describe(outcome, singular, index, block, messages) {
  const lines = [];
  if (outcome.transport === 'udp') {
    lines.push(`datagram ${block.offset}: ${count(block.len, 'byte')}`);
    const sent = outcome.sends.find((send) => send.offset === block.offset);
    if (sent && sent.len > block.len) lines.push(`truncated: ${sent.len} bytes were sent`);
  } else {
    lines.push(`${singular} ${index}: bytes ${block.offset} to ${block.offset + block.len} (${block.len})`);
    if (singular !== 'send' && messages.length) {
      const whole = messages.filter((part) => {
        const [from, to] = place(outcome, outcome.sends[part.index]);
        return part.from === from && part.to === to;
      }).length;
      const pieces = messages.length - whole;
      lines.push(`${count(whole, 'whole message')}${pieces ? `, ${count(pieces, 'piece')}` : ''}`);
    }
    if (block.header) lines.push(`header of ${count(block.header, 'byte')}`);
  }
  if ('wire_offset' in block) {
    const end = block.wire_offset + block.wire_len;
    lines.push(`on the wire: bytes ${block.wire_offset} to ${end} (${block.wire_len})`);
  }
  lines.push(`at ${time(block.t_us)}`);
  return lines.join('\n');
}

/* Shows the tooltip of a bar: at the pointer, or above the bar if the keyboard selected it. */
function show(bar, event) {
  hide();
  bar.classList.add('on');
  const tip = $('tip');
  tip.textContent = bar.tip;
  tip.hidden = false;
  const box = bar.getBoundingClientRect();
  const middle = event ? event.clientX : box.left + box.width / 2;
  const left = Math.min(Math.max(middle - tip.offsetWidth / 2, 6), document.documentElement.clientWidth - tip.offsetWidth - 6);
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${box.top + window.scrollY - tip.offsetHeight - 8}px`;
}
function hide() {
  for (const bar of document.querySelectorAll('.bar.on')) bar.classList.remove('on');
  $('tip').hidden = true;
}
function step(row, event) {
  const bars = [...row.querySelectorAll('.bar')];
  const at = bars.findIndex((bar) => bar.classList.contains('on'));
  const to = {
    ArrowRight: Math.min(at + 1, bars.length - 1), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: bars.length - 1,
  }[event.key];
  if (event.key === 'Escape') hide();
  if (to === undefined || !bars[to]) return;
  event.preventDefault();
  show(bars[to]);
  row.setAttribute('aria-label', bars[to].tip.replaceAll('\n', ', '));
}

/* Returns the tiles of the TLS records: their number, and the sends that they glued and cut. */
function recordTiles(outcome) {
  if (!('records_sent' in outcome)) return [];
  return [['TLS records', outcome.records_sent.length], ['glued in a record', outcome.glued_in_records, 1],
    ['cut into records', outcome.cut_by_records, 1]];
}

/* Builds the card of a result. */
function card(outcome) {
  const element = node('section', { class: 'card result', 'data-transport': outcome.transport, 'aria-label': outcome.transport });
  const size = count(Number(outcome.knobs.size), 'byte');
  element.append(node('div', { class: 'head' },
    node('span', { class: 'badge' }, 'records_sent' in outcome ? 'TLS over TCP' : outcome.transport.toUpperCase()),
    node('p', {}, `${count(Number(outcome.knobs.count), 'message')} of ${size}, ` +
      (outcome.transport === 'udp' ? 'one datagram each'
        : outcome.knobs.framing === 'raw' ? 'no framing' : `framing: ${outcome.knobs.framing}`))));
  const tiles = outcome.transport === 'tcp'
    ? [['sends', outcome.sends.length], ...recordTiles(outcome), ['writes', outcome.writes.length],
      ['segments', outcome.segments === null ? '?' : outcome.segments], ['reads', outcome.reads.length],
      ['frames', outcome.frames.length], ['glued', outcome.glued, 1], ['cut', outcome.cut, 1],
      ['split headers', outcome.split_headers, 1]]
    : [['sent', outcome.sends.length], ['received', outcome.reads.length],
      ['truncated', outcome.truncated, 1], ['lost', outcome.lost, 1]];
  element.append(node('dl', { class: 'tiles' }, ...tiles.map(([name, value, odd]) =>
    node('div', odd && value > 0 ? { class: 'odd' } : {}, node('dt', {}, name), node('dd', {}, String(value))))));
  const rows = node('div', { class: 'rows' });
  element.append(rows);
  element.append(node('p', { class: 'said' }, outcome.happened), node('p', { class: 'why' }, outcome.why));
  element.fill = () => {
    const narrow = window.matchMedia('(max-width: 860px)').matches;
    const width = Math.max(element.clientWidth - (narrow ? 62 + 28 : 64 + 40), 120);
    rows.replaceChildren();
    const lists = outcome.transport === 'tcp'
      ? [['sends', outcome.sends], ['records', outcome.records_sent], ['writes', outcome.writes],
        ['reads', outcome.reads], ['records', outcome.records_received], ['frames', outcome.frames]]
        .filter(([, blocks]) => blocks)
      : [['sent', outcome.sends], ['received', outcome.reads]];
    const all = lists.flatMap(([, blocks]) => blocks);
    const end = view === 'bytes'
      ? Math.max(1, ...outcome.sends.map((send) => place(outcome, send)[1]))
      : Math.max(1, ...all.map((block) => block.t_us));
    const usable = view === 'bytes' ? width : width - 12;
    const scale = (value) => (view === 'bytes' ? 0 : 6) + value / end * usable;
    for (const [name, blocks] of lists) {
      rows.append(node('span', { class: 'name' }, name), drawRow(outcome, name, blocks, width, scale));
    }
    rows.append(node('span', {}), axis(width, end, scale));
  };
  return element;
}
function axis(width, end, scale) {
  const element = shape('svg', { class: 'axis', viewBox: `0 0 ${width} 18`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const rough = end / (width / 110), power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const each = Math.max(1, [1, 2, 5, 10].map((step) => step * power).find((step) => step >= rough));
  for (let value = 0; value <= end; value += each) {
    const x = scale(value);
    const anchor = x < 10 ? 'start' : x > width - 24 ? 'end' : 'middle';
    const text = view === 'time' ? time(value) : value + (value === 0 ? ' bytes' : '');
    element.append(shape('line', { x1: x, x2: x, y1: 0, y2: 4 }), shape('text', { x, y: 15, 'text-anchor': anchor }, text));
  }
  return element;
}
function render() {
  hide();
  const cards = shown.map(card);
  $('results').replaceChildren(...cards);
  for (const element of cards) element.fill();
}

/* Builds the form of the settings. */
function buildForm() {
  const fields = $('fields');
  for (const knob of data.knobs) {
    const id = `knob-${knob.name}`;
    let input;
    if (knob.kind === 'number') {
      input = node('input', { type: 'number', min: knob.min, max: knob.max, step: 1, required: '', inputmode: 'numeric' });
    } else if (knob.kind === 'switch') {
      input = node('input', { type: 'checkbox' });
    } else {
      input = node('select', {}, ...knob.choices.map((choice) => node('option', {}, choice)));
    }
    input.id = id;
    input.name = knob.name;
    fields.append(node('div', { class: 'field' },
      node('label', { for: id }, knob.name, node('small', {}, knob.help)), input));
  }
}
function setKnobs(values) {
  for (const knob of data.knobs) {
    const value = knob.name in values ? values[knob.name] : knob.value;
    const input = $(`knob-${knob.name}`);
    if (knob.kind === 'switch') input.checked = value === 'on';
    else input.value = value;
  }
}
function query() {
  const pairs = new URLSearchParams();
  for (const knob of data.knobs) {
    const input = $(`knob-${knob.name}`);
    const value = knob.kind === 'switch' ? (input.checked ? 'on' : 'off') : input.value;
    if (value !== knob.value) pairs.set(knob.name, value);
  }
  return pairs.toString();
}
function choose(experiment) {
  chosen = experiment;
  $('title').textContent = experiment ? experiment.title : 'Custom run';
  for (const button of document.querySelectorAll('#experiments button')) {
    button.setAttribute('aria-pressed', String(experiment !== null && button.dataset.name === experiment.name));
  }
}
function notice(text, bad) {
  $('notice').textContent = text;
  $('notice').classList.toggle('bad', Boolean(bad));
}

/* Starts a run, and handles the server-sent events of the response as they arrive. */
async function run() {
  if (running) running.abort();
  const controller = running = new AbortController();
  const knobs = query();
  history.replaceState(null, '', knobs ? `?${knobs}` : location.pathname);
  notice('running …');
  let results = [];
  let note = 'done';
  try {
    const response = await fetch(`/run?${knobs}`, { signal: controller.signal });
    if (!response.ok) {
      notice((await response.text()).trim(), true);
      return;
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffered = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      buffered += value;
      const events = buffered.split('\n\n');
      buffered = events.pop();
      for (const event of events) {
        const [, name, text] = /^event: (\S+)\ndata: (.*)$/.exec(event) || [];
        if (name === 'progress') {
          const progress = JSON.parse(text);
          notice(`${progress.transport}: ${progress.sent} sent, ${progress.came} received`);
        } else if (name === 'outcome') {
          const outcome = JSON.parse(text);
          const named = data.experiments.find((experiment) => experiment.name === outcome.experiment);
          if (!chosen && named) choose(named);
          results = [...results, outcome];
          shown = results;
          render();
        } else if (name === 'failed') {
          notice(JSON.parse(text), true);
        } else if (name === 'note') {
          note = JSON.parse(text);
        } else if (name === 'done') {
          if (!$('notice').classList.contains('bad')) notice(note);
        }
      }
    }
  } catch (error) {
    if (error.name !== 'AbortError') notice(`the server cannot be reached: ${error.message}`, true);
  } finally {
    if (running === controller) running = null;
  }
}

function buildExperiments() {
  const list = $('experiments');
  let group = null;
  for (const experiment of data.experiments) {
    if (!group || group.dataset.group !== experiment.group) {
      group = node('li', { 'data-group': experiment.group }, node('span', {}, experiment.group));
      list.append(group);
    }
    const button = node('button', { type: 'button', 'data-name': experiment.name, 'aria-pressed': 'false' }, experiment.name);
    button.title = experiment.title;
    button.addEventListener('click', () => {
      choose(experiment);
      if (data.live) {
        setKnobs(experiment.knobs);
        run();
      } else {
        shown = data.outcomes.filter((outcome) => outcome.experiment === experiment.name);
        history.replaceState(null, '', `#${experiment.name}`);
        render();
      }
    });
    group.append(button);
  }
}

for (const button of document.querySelectorAll('.view button')) {
  button.addEventListener('click', () => {
    view = button.dataset.view;
    for (const other of document.querySelectorAll('.view button')) {
      other.setAttribute('aria-pressed', String(other === button));
    }
    render();
  });
}
let width = 0;
new ResizeObserver(() => {
  if (width === $('results').clientWidth) return;
  width = $('results').clientWidth;
  render();
}).observe($('results'));

if (data.outcomes.some((outcome) => outcome.experiment === 'custom')) {
  data.experiments = [{ name: 'custom', title: 'Custom run', group: 'run' }];
} else if (!data.live) {
  const ran = new Set(data.outcomes.map((outcome) => outcome.experiment));
  data.experiments = data.experiments.filter((experiment) => ran.has(experiment.name));
}
buildExperiments();
if (data.live) {
  buildForm();
  setKnobs(Object.fromEntries(new URLSearchParams(location.search)));
  $('form').addEventListener('submit', (event) => {
    event.preventDefault();
    choose(null);
    run();
  });
  $('link').addEventListener('click', async () => {
    const knobs = query();
    const link = location.origin + location.pathname + (knobs ? `?${knobs}` : '');
    try {
      await navigator.clipboard.writeText(link);
      notice('link copied');
    } catch {
      notice(link);
    }
  });
  if (location.search) {
    choose(null);
    run();
  } else {
    document.querySelector('[data-name="late-reader"]').click();
  }
} else {
  document.body.classList.add('static');
  $('form').hidden = true;
  const name = decodeURIComponent(location.hash.slice(1));
  const buttons = [...document.querySelectorAll('#experiments button')];
  (buttons.find((button) => button.dataset.name === name) || buttons[0]).click();
}
