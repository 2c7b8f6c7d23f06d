// Figures that answer when touched: everything a reader can ask for is in the page already, as JSON beside a table.
// One function per kind of widget; each gets its data and fills an empty element. Without this script the table stays.
(() => {
  const SVG = 'http://www.w3.org/2000/svg', DRAG = 6;  // pixels that a pointer moves before a click is a drag
  const SVG_TAGS = new Set(['svg', 'g', 'path', 'image', 'circle', 'line', 'rect', 'text']);
  let serial = 0;  // of groups of choices

  const make = (tag, attributes = {}, ...children) => {
    const made = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes))
      if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
      else if (value !== false) made.setAttribute(name, value === true ? '' : value);
    made.append(...children);
    return made;
  };

  // What the legend shows of each sign.
  const dot = name => () => make('circle', { cx: 17, cy: 8, r: 5, class: name });
  const SIGNS = {
    mask: color => make('path', { d: 'M3 8H31', class: 'mask', stroke: color }),
    reference: () => make('path', { d: 'M3 8H31', class: 'reference' }),
    prompt: () => make('path', { d: 'M12 8h10M17 3v10', class: 'prompt' }),
    kept: dot('kept'), best: dot('kept best'), dropped: dot('dropped'),
  };

  // Bits of packed masks: for each pixel one bit of every mask (`pack_masks` in desam_lite/study/report/widgets.py).
  const unpack = async text => {
    const packed = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const bit = (bits, place) => (bits[place >> 3] >> (7 - (place & 7))) & 1;

  // The border of mask `which` of `count`, between its pixels, as an SVG path.
  const outline = (bits, which, count, [width, height]) => {
    const at = (x, y) => x < 0 || y < 0 || x >= width || y >= height ? 0 : bit(bits, (y * width + x) * count + which);
    let path = '';
    const walk = (outer, inner, differs, move, step) => {
      for (let a = 0; a <= outer; a++)
        for (let b = 0, from = -1; b <= inner; b++) {
          const border = b < inner && differs(a, b);
          if (border && from < 0) from = b;
          if (!border && from >= 0) { path += move(a, from) + step + (b - from); from = -1; }
        }
    };
    walk(height, width, (y, x) => at(x, y - 1) !== at(x, y), (y, x) => `M${x} ${y}`, 'h');
    walk(width, height, (x, y) => at(x - 1, y) !== at(x, y), (x, y) => `M${x} ${y}`, 'v');
    return path;
  };

  // A slice with reference and mask, its title above and a note below; `over` takes what is drawn on top, in mm.
  const view = (data, title = '') => {
    const [width, height] = data.size, scaled = pixels => `scale(${width / pixels[0]} ${height / pixels[1]})`;
    const image = make('image', { width, height, preserveAspectRatio: 'none' });
    const reference = make('path', { class: 'reference' });
    const halo = make('path', { class: 'halo' }), mask = make('path', { class: 'mask', stroke: data.color });
    const over = make('g'), note = make('p');
    const name = make('b', {}, title);
    const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' }, image,
      make('g', { transform: scaled(data.pixels.map(n => 2 * n)) }, reference),
      make('g', { transform: scaled(data.maskPixels) }, halo, mask), over);
    const figure = make('div', { class: 'view' }, name, svg, note);
    return {
      figure, name, svg, over, note,
      slice(number) {
        image.setAttribute('href', data.images[number]);
        reference.setAttribute('d', data.references[number]);
      },
      draw(path) { halo.setAttribute('d', path); mask.setAttribute('d', path); },
    };
  };

  // A slider with its name, and its value in words.
  const range = (text, attributes, show) => {
    const value = make('output'), input = make('input', { type: 'range', oninput() { show(); }, ...attributes });
    return { label: make('label', { class: 'wide' }, text, input, value), value, input, get number() { return Number(input.value); } };
  };

  const legend = (data, ...extra) => make('p', { class: 'legend' }, ...[
    ['mask', `${data.organ}, as the model segments it`], ['reference', 'reference'], ...extra].map(([name, text]) =>
    make('span', {}, make('svg', { viewBox: '0 0 34 16', 'aria-hidden': 'true' }, SIGNS[name](data.color)), text)), make('span', { class: 'window' }));

  const clamp = (value, most) => Math.max(0, Math.min(most, value));

  const widgets = {
    // A click is a point, a drag a box of the organ's size; models side by side.
    async pixel(data, live) {
      const { side, size, panels } = data, count = side * side;
      const bits = await Promise.all(panels.map(panel => unpack(panel.masks)));
      const kinds = ['points', 'box'].filter(each => panels.some(panel => panel.kind === each));
      const ofKind = each => panels.map((panel, n) => ({ ...panel, bits: bits[n] })).filter(panel => panel.kind === each);
      const models = Object.fromEntries(kinds.map(each => [each, ofKind(each)]));
      const views = Array.from({ length: Math.max(...kinds.map(each => models[each].length)) }, () => view(data));
      const cell = size.map(length => length / side), half = data.box.map((n, i) => n * size[i] / data.pixels[i] / 2);
      let place = data.start, kind = kinds[0];
      const told = make('p', { class: 'told', role: 'status' });

      const mark = () => {
        const [x, y] = [(place % side + 0.5) * cell[0], (Math.floor(place / side) + 0.5) * cell[1]];
        if (kind === 'points') return `M${x - 4} ${y}h8M${x} ${y - 4}v8`;
        const [left, right] = [x - half[0], x + half[0]].map(v => clamp(v, size[0]));
        const [top, bottom] = [y - half[1], y + half[1]].map(v => clamp(v, size[1]));
        return `M${left} ${top}H${right}V${bottom}H${left}z`;
      };
      const show = () => {
        views.forEach((each, n) => { each.figure.hidden = n >= models[kind].length; });
        const texts = models[kind].map(({ name, bits, dice, scores }, n) => {
          views[n].name.textContent = name;
          views[n].draw(outline(bits, place, count, data.maskPixels));
          views[n].over.replaceChildren(make('path', { class: 'prompt', d: mark() }));
          const score = scores ? `predicted IoU ${scores[place].toFixed(2)}` : 'no predicted IoU';
          views[n].note.textContent = `Dice ${dice[place]} %, ${score}`;
          return `${name} ${dice[place]} %`;
        });
        choices.forEach(choice => { choice.checked = choice.value === kind; });
        const where = `column ${place % side + 1}, row ${Math.floor(place / side) + 1} of ${side}`;
        const within = data.inside[place] ? 'inside' : 'outside';
        told.textContent = `${kind === 'box' ? 'Box with its middle' : 'Point'} at ${where}, ${within} the organ. Dice: ${texts.join(', ')}.`;
      };
      const move = (across, down) => {
        place = clamp(place % side + across, side - 1) + side * clamp(Math.floor(place / side) + down, side - 1);
        show();
      };
      const point = event => {
        const box = event.currentTarget.getBoundingClientRect();
        const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
        place = clamp(Math.floor(x * side), side - 1) + side * clamp(Math.floor(y * side), side - 1);
        show();
      };
      const group = `prompt${++serial}`;
      const choices = kinds.map(value =>
        make('input', { type: 'radio', name: group, value, onchange() { kind = value; show(); } }));
      const names = { points: 'point', box: "box of the organ's size" };
      const bar = make('div', { class: 'bar', role: 'radiogroup', 'aria-label': 'prompt' },
        ...choices.map(choice => make('label', {}, choice, names[choice.value])));

      let from = null, dragged = false;
      views.forEach(each => {
        each.slice(0);
        each.svg.addEventListener('pointerdown', event => {
          from = [event.clientX, event.clientY];
          event.currentTarget.setPointerCapture(event.pointerId);
        });
        each.svg.addEventListener('pointermove', event => {
          if (!from) return;
          const far = Math.hypot(event.clientX - from[0], event.clientY - from[1]) > DRAG;
          if (far) { kind = kinds.at(-1); dragged = true; }
          if (dragged) point(event);
        });
        each.svg.addEventListener('pointerup', event => {
          if (from && !dragged) { kind = kinds[0]; point(event); }
          from = null; dragged = false;
        });
        each.svg.addEventListener('pointercancel', () => { from = null; dragged = false; });
      });
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const field = make('div', {
        class: 'views touched', tabindex: 0, role: 'application', 'aria-label': 'position of the prompt: arrow keys move it, b changes between point and box',
        onkeydown(event) {
          if (event.ctrlKey || event.altKey || event.metaKey) return;
          if (event.key in steps) move(...steps[event.key]);
          else if (event.key === 'b') { kind = kinds[(kinds.indexOf(kind) + 1) % kinds.length]; show(); }
          else return;
          event.preventDefault();
          event.stopPropagation();
        },
      }, ...views.map(each => each.figure));
      const signs = legend(data, ['prompt', 'prompt']);
      signs.lastChild.textContent = data.windows[0];
      live.append(bar, field, signs, told,
        make('p', { class: 'hint' }, 'Click or tap for a point, drag for a box. With keys: arrows move the prompt, b changes its kind.'));
      show();
    },

    // Points above the threshold survive; the best of them gives the mask of its slice, and all slices the Dice of the case.
    async threshold(data, live) {
      const { side, size, models, areas } = data, slices = data.images.length;
      const bits = await Promise.all(models.map(model => unpack(model.masks)));
      const views = models.map(model => view(data, model.name));
      const cell = size.map(length => length / side), radius = Math.min(0.22 * Math.min(...cell), size[0] / 50);
      const slice = range('slice', { min: 1, max: slices, value: data.start + 1 }, () => show());
      const cut = range('threshold', { min: 0, max: 1, step: 0.01, value: data.threshold }, () => show());
      const told = make('p', { class: 'told', role: 'status' });
      const sum = (values, kept) => values.reduce((total, value, z) => total + (kept(z) ? value : 0), 0);
      const show = () => {
        const z = slice.number - 1, least = Math.round(1000 * cut.number);
        slice.value.textContent = `${z + 1} of ${slices}`;
        cut.value.textContent = cut.number.toFixed(2);
        const texts = models.map((model, n) => {
          const scores = model.scores[z], drawn = at => model.best[at] > least, chosen = scores.indexOf(model.best[z]);
          views[n].slice(z);
          views[n].draw(drawn(z) ? outline(bits[n], z, slices, data.maskPixels) : '');
          views[n].over.replaceChildren(...scores.map((score, place) => make('circle', {
            cx: (place % side + 0.5) * cell[0], cy: (Math.floor(place / side) + 0.5) * cell[1], r: radius,
            class: score <= least ? 'dropped' : drawn(z) && place === chosen ? 'kept best' : 'kept' })));
          const area = drawn(z) ? model.areas[z] : 0, dice = 200 * (drawn(z) ? model.overlaps[z] : 0) / (area + areas[z]);
          const result = areas[z] ? (area ? `Dice ${dice.toFixed(0)} %` : 'organ missed, Dice 0 %') : (area ? 'false alarm' : 'no organ, no mask');
          views[n].note.textContent = `${scores.filter(score => score > least).length} of ${scores.length} points: ${result}`;
          const all = 200 * sum(model.overlaps, drawn) / Math.max(1, sum(model.areas, drawn) + sum(areas, () => true));
          const count = wrong => areas.filter((organ, at) => wrong(organ, drawn(at) ? model.areas[at] : 0)).length;
          return `${model.name}: Dice ${all.toFixed(0)} %, missed slices ${count((organ, mask) => organ && !mask)}, ` +
            `false alarms ${count((organ, mask) => !organ && mask)}`;
        });
        signs.lastChild.textContent = data.windows[z];
        told.textContent = `The whole case at ${cut.number.toFixed(2)}. ${texts.join('; ')}.`;
      };
      const signs = legend(data, ['kept', 'point that survives'], ['best', 'point of the mask'], ['dropped', 'dropped point']);
      live.append(make('div', { class: 'bar' }, slice.label, cut.label),
        make('div', { class: 'views' }, ...views.map(each => each.figure)), signs, told);
      show();
    },

    // The scanner from one hospital to another, one dial or all: the image, and what each model makes of it.
    async dial(data, live) {
      const { models, dials, positions, way } = data, last = positions.length - 1;
      const bits = await Promise.all(models.map(model => Promise.all(model.masks.map(unpack))));
      const views = models.map(model => view(data, model.name));
      const select = make('select', { 'aria-label': 'dial', onchange: () => show() }, ...dials.map((dial, n) => make('option', { value: n }, dial)));
      const turn = range('position', { min: 0, max: last, step: 1, value: 0 }, () => show());
      const told = make('p', { class: 'told', role: 'status' });
      select.value = dials.length - 1;  // all together
      const show = () => {
        const place = turn.number ? 1 + Number(select.value) * last + turn.number - 1 : 0;
        const part = String(Number(positions[turn.number].toFixed(2)));
        turn.value.textContent = part;
        turn.input.setAttribute('aria-valuetext', part);
        models.forEach((model, n) => {
          views[n].slice(place);
          views[n].draw(outline(bits[n][place], 0, 1, data.maskPixels));
          const change = model.dice[place] - model.dice[0];
          views[n].note.textContent = `Dice ${model.dice[place]} %` + (place ? `, change ${change < 0 ? '-' : '+'}${Math.abs(change)}` : '');
        });
        const texts = models.map(model => `${model.name} ${model.dice[place]} %`).join(', ');
        told.textContent = `With ${dials[select.value]} at ${part} of the way from ${way[0]} to ${way[1]}. Dice: ${texts}.`;
      };
      live.append(make('div', { class: 'bar' }, make('label', {}, 'dial', select), turn.label),
        make('div', { class: 'views' }, ...views.map(each => each.figure)), legend(data), told);
      show();
    },

    // One small study at a time: a vote, then what all runs say; right votes are counted.
    async vote(data, live) {
      const CHOICES = { X: 'X is better', Y: 'Y is better', none: 'No winner can be named' };
      const most = Math.max(1, ...data.studies.flatMap(study => study.values.map(Math.abs)));
      const at = value => 150 + 130 * value / most, signed = value => (value > 0 ? '+' : '') + value.toFixed(1);
      let number = 0, right = 0, votes = 0;
      const heading = make('b'), told = make('p', { class: 'told', role: 'status' }), counted = make('p', { class: 'hint' });
      const plot = make('svg', { viewBox: '0 0 300 76', class: 'plot', role: 'img' });
      const text = (x, y, words, anchor = 'middle') => make('text', { x, y, 'text-anchor': anchor }, words);
      const show = () => {
        const { values, source, seed } = data.studies[number], mean = values.reduce((sum, value) => sum + value, 0) / values.length;
        heading.textContent = `Study ${number + 1} of ${data.studies.length}: both trained at ${source}, seed ${seed}, tested on ${values.length} patients of other hospitals`;
        plot.setAttribute('aria-label', `${data.title}, X minus Y: ${values.map(signed).join(', ')}; mean ${signed(mean)}`);
        plot.replaceChildren(
          make('line', { x1: 150, x2: 150, y1: 14, y2: 56 }), make('line', { x1: 15, x2: 285, y1: 56, y2: 56 }),
          text(15, 69, `${signed(-most)}, Y higher`, 'start'), text(150, 69, '0'), text(285, 69, `X higher, ${signed(most)}`, 'end'),
          ...values.map((value, place) => make('circle', { cx: at(value), cy: 22 + 8 * place, r: 3.5 })),
          make('path', { d: `M${at(mean)} 14V56`, class: 'mean' }), text(at(mean), 10, `mean ${signed(mean)}`));
        told.textContent = 'Which method is better? Vote first, then read what all runs say.';
        buttons.forEach(button => { button.disabled = false; });
        next.disabled = true;
      };
      const cast = choice => {
        const study = data.studies[number], hit = choice === study.right;
        votes += 1;
        right += hit;
        told.textContent = `${hit ? 'Right' : 'Not so'}: X was ${study.X}, Y was ${study.Y}. All runs: ${study.told}`;
        counted.textContent = `${right} of ${votes} votes right`;
        next.textContent = number + 1 < data.studies.length ? 'Next study' : 'From the first study again';
        next.disabled = false;
        next.focus();
        buttons.forEach(button => { button.disabled = true; });
      };
      const buttons = Object.entries(CHOICES).map(([choice, words]) => make('button', { type: 'button', onclick: () => cast(choice) }, words));
      const next = make('button', { type: 'button', onclick() {
        number = (number + 1) % data.studies.length;
        if (!number) right = votes = 0;
        counted.textContent = votes ? `${right} of ${votes} votes right` : 'no vote yet';
        show();
        buttons[0].focus();
      } }, 'Next study');
      counted.textContent = 'no vote yet';
      live.append(heading, plot, make('div', { class: 'bar' }, ...buttons, next), told, counted,
        make('p', { class: 'hint' }, `Dots: ${data.title} of X minus that of Y, one dot a patient. A vote is right if it agrees with the verdict of all runs.`));
      show();
    },
  };

  const start = async root => {
    root.classList.add('scripted');
    const live = make('div', { class: 'live' }), table = root.querySelector('details');
    try {
      await widgets[root.dataset.widget](JSON.parse(root.querySelector('script').textContent), live);
    } catch (error) {
      console.warn(`the ${root.dataset.widget} widget shows its table only: ${error}`);  // as in a browser before 2023
      return;
    }
    root.prepend(live);
    table.open = false;
  };
  const startAll = () => document.querySelectorAll('.widget:not(.scripted)').forEach(start);
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', startAll);
  else startAll();
})();
