'use strict';
(() => {
  const data = JSON.parse(document.getElementById('chart-data').textContent);
  const colours = ['#4c78c8', '#e0853b', '#4fa35c', '#cf5a5f', '#9671c4', '#96705f', '#d880b8', '#8a8a8a', '#b3a92e', '#3fb0bf'];
  const element = (name, attributes, parent, text) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.appendChild(made);
    return made;
  };
  const button = (parent, text, pressed, kind, act) => {
    const made = document.createElement('button');
    made.textContent = text; made.className = kind;
    made.setAttribute('aria-pressed', pressed);
    made.addEventListener('click', () => { made.setAttribute('aria-pressed', act()); });
    parent.appendChild(made);
    return made;
  };
  const nice = (low, high) => {
    const rough = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(m => m * power >= rough);
    const ticks = [];
    for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-6; t += step) ticks.push(+t.toPrecision(12));
    return ticks;
  };
  for (const holder of document.querySelectorAll('[data-chart]')) {
    const chart = data.charts[holder.dataset.chart];
    const names = [...new Set(chart.series.map(s => s.run))], hidden = new Set();
    let logarithmic = chart.log || false, byTime = false, focus = Boolean(chart.focus);
    const controls = document.createElement('div'), tip = document.createElement('div');
    controls.className = 'controls'; tip.className = 'tip';
    holder.append(controls);
    const draw = () => {
      holder.querySelector('svg')?.remove();
      const W = Math.max(320, holder.clientWidth || 900), H = Math.round(Math.min(330, .7 * W)), left = 62, right = 14, top = 12, bottom = 42;
      const svg = element('svg', {viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': chart.label}, holder);
      const shown = chart.series.filter(s => !hidden.has(s.run)).map(s => ({...s, points: s.points
        .map(p => [byTime ? p[2] : p[0], p[1], p[3]]).filter(p => p[0] !== null && p[0] !== undefined && p[1] !== null && p[1] !== undefined
          && (!logarithmic || p[1] > 0) && (!focus || byTime || p[0] <= chart.focus))}));
      const all = shown.flatMap(s => s.points);
      tip.remove(); holder.append(tip); tip.replaceChildren();
      if (!all.length) { element('text', {x: W / 2, y: H / 2, 'text-anchor': 'middle'}, svg, 'nothing to show'); return; }
      const f = logarithmic ? Math.log10 : v => v;
      let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
      for (const [x, y] of all) { x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, f(y)); y1 = Math.max(y1, f(y)); }
      if (chart.range && !logarithmic) [x0, x1, y0, y1] = chart.range;
      if (x0 === x1) x1 += 1; if (y0 === y1) { y0 -= .5; y1 += .5; }
      const X = x => left + (x - x0) / (x1 - x0) * (W - left - right), Y = y => H - bottom - (f(y) - y0) / (y1 - y0) * (H - top - bottom);
      for (const t of nice(x0, x1)) { element('line', {class: 'grid', x1: X(t), x2: X(t), y1: top, y2: H - bottom}, svg); element('text', {x: X(t), y: H - bottom + 16, 'text-anchor': 'middle'}, svg, +t.toPrecision(6)); }
      for (const t of nice(y0, y1)) { const y = H - bottom - (t - y0) / (y1 - y0) * (H - top - bottom);
        element('line', {class: 'grid', x1: left, x2: W - right, y1: y, y2: y}, svg);
        element('text', {x: left - 6, y: y + 4, 'text-anchor': 'end'}, svg, +(logarithmic ? 10 ** t : t).toPrecision(3)); }
      element('text', {x: (left + W) / 2, y: H - 6, 'text-anchor': 'middle'}, svg, byTime ? 'seconds' : chart.x);
      element('text', {x: 14, y: (H - bottom) / 2, 'text-anchor': 'middle', transform: `rotate(-90 14 ${(H - bottom) / 2})`}, svg, chart.y);
      for (const s of shown) {
        const colour = colours[names.indexOf(s.run) % colours.length];
        if (!chart.scatter) element('polyline', {points: s.points.map(p => `${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`).join(' '), fill: 'none', stroke: colour, 'stroke-width': s.dashed ? 1.2 : 2, 'stroke-dasharray': s.dashed ? '5 4' : s.marked ? '1 4' : 'none', 'stroke-linecap': 'round'}, svg);
        if (chart.scatter || s.points.length < 80 && !s.dashed) for (const p of s.points) element('circle', {cx: X(p[0]).toFixed(1), cy: Y(p[1]).toFixed(1), r: 2.5, fill: colour, 'fill-opacity': chart.scatter ? .65 : 1}, svg);
      }
      const guide = element('line', {class: 'guide', y1: top, y2: H - bottom, x1: -9, x2: -9}, svg);
      svg.addEventListener('pointermove', event => {
        const box = svg.getBoundingClientRect(), x = x0 + ((event.clientX - box.left) / box.width * W - left) / (W - left - right) * (x1 - x0);
        guide.setAttribute('x1', X(x)); guide.setAttribute('x2', X(x));
        const found = [];
        if (chart.scatter) {
          const px = (event.clientX - box.left) / box.width * W, py = (event.clientY - box.top) / box.height * H;
          const far = p => (X(p[0]) - px) ** 2 + (Y(p[1]) - py) ** 2;
          const [, s] = shown.flatMap(s => s.points.map(p => [far(p), s])).reduce((a, b) => b[0] < a[0] ? b : a);
          guide.setAttribute('x1', -9); guide.setAttribute('x2', -9);
          tip.textContent = `nearest: ${s.run}`;
          return;
        }
        for (const s of shown) if (s.points.length) found.push([s, s.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)]);
        found.sort((a, b) => b[1][1] - a[1][1]);
        tip.replaceChildren(...found.map(([s, p]) => {
          const row = document.createElement('span'), mark = document.createElement('i');
          mark.style.background = colours[names.indexOf(s.run) % colours.length];
          row.append(mark, `${s.run}${s.part ? ', ' + s.part : ''}: ${+p[1].toPrecision(4)} at ${p[2] === undefined ? +p[0].toPrecision(6) : p[2]}`);
          return row;
        }));
      });
    };
    for (const name of names) { const b = button(controls, name, true, 'run', () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); draw(); return !hidden.has(name); });
      b.style.borderLeft = `6px solid ${colours[names.indexOf(name) % colours.length]}`; }
    if (!chart.range && !chart.scatter) button(controls, 'log scale', logarithmic, 'log', () => { logarithmic = !logarithmic; draw(); return logarithmic; });
    if (chart.series.some(s => s.points.some(p => p.length > 2 && p[2] !== null))) button(controls, 'by time', false, 'time', () => { byTime = !byTime; draw(); return byTime; });
    if (chart.focus) button(controls, 'all iterations', !focus, 'focus', () => { focus = !focus; draw(); return !focus; });
    draw();
    window.addEventListener('resize', draw);
  }
  // A table that is cut says so, and fades where it goes on.
  for (const area of document.querySelectorAll('.scroll')) {
    const hint = document.createElement('div');
    hint.className = 'hint'; hint.textContent = 'The table goes on to the right: scroll \u2192';
    area.before(hint);
    const mark = () => {
      hint.hidden = area.scrollWidth <= area.clientWidth + 1;
      area.classList.toggle('cut', area.scrollLeft + area.clientWidth < area.scrollWidth - 1);
      if (hint.hidden) area.removeAttribute('tabindex'); else area.tabIndex = 0;
    };
    area.addEventListener('scroll', mark);
    new ResizeObserver(mark).observe(area);
    mark();
  }
  window.addEventListener('beforeprint', () => { for (const one of document.querySelectorAll('details')) one.open = true; });
  document.documentElement.dataset.ready = 'true';
})();
