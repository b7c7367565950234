/* Draws the charts of the page with BokehJS from the numbers in #plots. Legend, choices, buttons and the table behind
   each chart are HTML, so that they work with a keyboard and a screen reader. */
const Charts = (() => {
  const MARKERS = ["circle", "diamond", "triangle", "square", "inverted_triangle", "plus", "x"];
  const TABLE_ROWS = 400;
  const coarse = matchMedia("(pointer: coarse)").matches;
  const charts = new Map();

  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shown = value => {
    if (value === null || value === undefined || Number.isNaN(value)) return "—";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-6 || size >= 1e12)) return value.toExponential(4).replace("-", "−");
    return value.toLocaleString("en-US", {maximumSignificantDigits: 6}).replace("-", "−");
  };
  const between = (value, lo, hi) =>
    lo === null && hi === null ? shown(value) : `${shown(value)} (${shown(lo)} to ${shown(hi)})`;
  const at = (list, index) => (list ? list[index] : null);
  const named = (axis, value) => {
    const found = axis.t && axis.t.find(([place]) => place === value);
    return found ? found[1] : shown(value);
  };

  /* The ends of an axis over what is drawn. */
  function ends(axis, series, keys) {
    let lo = Infinity, hi = -Infinity;
    for (const s of series) for (const key of keys) for (const v of s[key] || []) {
      if (v === null || (axis.log && v <= 0)) continue;
      if (v < lo) lo = v;
      if (v > hi) hi = v;
    }
    if (lo > hi) return axis.log ? [0.1, 1] : [0, 1];
    if (axis.t) return [lo - 0.7, hi + 0.7];
    if (axis.log) {
      const pad = (Math.log10(hi) - Math.log10(lo)) * 0.05 || 0.2;
      return [10 ** (Math.log10(lo) - pad), 10 ** (Math.log10(hi) + pad)];
    }
    const pad = (hi - lo) * 0.05 || Math.abs(lo) * 0.1 || 1;
    return [axis.zero && lo >= 0 ? 0 : lo - pad, hi + pad];
  }

  function axisOf(M, axis, dense) {
    const font = css("--sans");
    const look = {
      axis_label: axis.l, axis_label_text_font: font, axis_label_text_font_style: "normal",
      axis_label_text_font_size: "12px", axis_label_text_color: css("--ink"), axis_label_standoff: 6,
      major_label_text_font: font, major_label_text_font_size: "11px", major_label_text_color: css("--muted"),
      axis_line_color: css("--rule"), major_tick_line_color: css("--rule"), major_tick_in: 0, minor_tick_line_color: null,
    };
    if (axis.log)
      return new M.LogAxis({...look, formatter: new M.BasicTickFormatter({use_scientific: false}),
        ticker: new M.LogTicker({mantissas: [1, 2, 5], desired_num_ticks: dense ? 8 : 4})});
    if (!axis.t) return new M.LinearAxis({...look, formatter: new M.NumeralTickFormatter({format: "0,0.[0000000]"})});
    return new M.LinearAxis({...look, ticker: new M.FixedTicker({ticks: axis.t.map(([place]) => place)}),
      major_label_overrides: new Map(axis.t)});
  }

  /* Points, and bars, of one look in one glyph: a glyph for each of hundreds takes seconds to lay out. */
  function grouped(series, markerOf) {
    const groups = new Map();
    series.forEach((s, index) => {
      const alike = s.d === "points" || s.d === "bars";
      const key = alike ? [s.d, s.c % 7, markerOf(s), s.f, s.lab, Boolean(s.xl), Boolean(s.lo)].join() : index;
      if (groups.has(key)) groups.get(key).push(s);
      else groups.set(key, [s]);
    });
    return groups.values();
  }

  function sourceOf(M, group, view, panel) {
    const bars = group[0].d === "bars";
    const data = {x: [], y: [], x0: [], x1: [], y0: [], y1: [], who: [], lab: [], tx: [], ty: [], told: []};
    const plain = value => (value === null || value === undefined ? NaN : value);
    for (const s of group) s.x.forEach((x, i) => {
      data.x.push(plain(x));
      data.y.push(plain(s.y[i]));
      data.x0.push(plain(at(s.xl, i)));
      data.x1.push(plain(at(s.xh, i)));
      data.y0.push(plain(at(s.lo, i)));
      data.y1.push(plain(at(s.hi, i)));
      data.who.push(s.p ? `${s.n}, ${s.p}` : s.n);
      data.lab.push(s.n.length > 24 ? `${s.n.slice(0, 23)}…` : s.n);
      data.tx.push(bars ? `${shown(at(s.xl, i))} to ${shown(at(s.xh, i))}`
        : view.x.t ? named(view.x, x) : between(x, at(s.xl, i), at(s.xh, i)));
      data.ty.push(panel.y.t ? named(panel.y, s.y[i]) : between(s.y[i], at(s.lo, i), at(s.hi, i)));
      data.told.push(at(s.t, i) || "");
    });
    return new M.ColumnDataSource({data});
  }

  /* Puts the glyphs of a group into `renderers`; returns the one that is hovered, if any. */
  function addSeries(M, renderers, group, view, panel, marker) {
    const s = group[0];
    const colour = s.d === "rule" ? css(s.f ? "--muted" : "--warn") : css(`--s${(s.c % 7) + 1}`);
    const data_source = sourceOf(M, group, view, panel);
    const add = glyph => {
      const renderer = new M.GlyphRenderer({data_source, glyph});
      renderers.push(renderer);
      return renderer;
    };
    const x = {field: "x"}, y = {field: "y"};
    const stroke = {line_color: colour, line_width: s.f || s.d === "rule" ? 1.3 : 2,
      line_dash: s.f ? [2, 3] : s.d === "rule" ? [6, 4] : []};
    if (s.d === "bars")
      return add(new M.HBar({y, left: {field: "x0"}, right: {field: "x1"}, height: 0.62, fill_color: colour,
        fill_alpha: s.f ? 0.35 : 0.9, line_color: null}));
    if (s.xl) add(new M.Segment({x0: {field: "x0"}, x1: {field: "x1"}, y0: y, y1: y, line_color: colour, line_width: 1.3}));
    if (s.lo) add(new M.Segment({x0: x, x1: x, y0: {field: "y0"}, y1: {field: "y1"}, line_color: colour, line_width: 1.3}));
    if (s.d === "line" || s.d === "line_points" || s.d === "rule") add(new M.Line({x, y, ...stroke}));
    if (s.d === "step") add(new M.Step({x, y, mode: "after", ...stroke}));
    if (s.d === "rule") return null;
    if (s.lab) add(new M.Text({x, y, text: {field: "lab"}, x_offset: 8, y_offset: -7,
      text_color: css("--ink"), text_font: css("--sans"), text_font_size: "12px"}));
    const visible = s.d === "points" || s.d === "line_points";
    return add(new M.Scatter({x, y, marker: {value: marker}, size: visible ? (s.f ? 6 : 10) : 9,
      fill_color: colour, line_color: visible ? css("--paper") : null,
      fill_alpha: visible ? 1 : 0, line_alpha: visible ? 1 : 0, hit_dilation: 1.4}));
  }

  function figureOf(M, view, panel, series, x_range, last) {
    const [lo, hi] = ends(panel.y, series, ["y", "lo", "hi"]);
    const rule = css("--rule"), paper = css("--paper");
    const figure = new M.Plot({
      height: panel.h + (last ? 0 : -30), sizing_mode: "stretch_width", toolbar_location: null, x_range,
      y_range: new M.Range1d({start: lo, end: hi, reset_start: lo, reset_end: hi}),
      x_scale: view.x.log ? new M.LogScale() : new M.LinearScale(),
      y_scale: panel.y.log ? new M.LogScale() : new M.LinearScale(),
      background_fill_color: paper, border_fill_color: paper, outline_line_color: null, min_border_left: 64,
      min_border_right: 14, min_border_top: 8, title: null,
    });
    figure.toolbar.logo = null;
    const below = axisOf(M, last ? view.x : {...view.x, l: ""}, true), left = axisOf(M, panel.y, panel.h > 200);
    if (!last) below.major_label_text_font_size = "0px";
    figure.below = [below];
    figure.left = [left];
    figure.center = [below, left].map((axis, dimension) =>
      new M.Grid({axis, dimension, ticker: axis.ticker, grid_line_color: rule, grid_line_alpha: 0.6}));
    const hit = [], renderers = [];
    const places = new Map();
    for (const s of panel.s) if (!places.has(s.n)) places.set(s.n, places.size);
    const markerOf = s => MARKERS[(s.c + Math.floor(places.get(s.n) / 7)) % 7];
    for (const group of grouped(series, markerOf)) {
      const renderer = addSeries(M, renderers, group, view, panel, markerOf(group[0]));
      if (renderer) hit.push(renderer);
    }
    figure.renderers = renderers;
    const rows = [["", "@who"], [view.x.l, "@tx"], [panel.y.l, "@ty"]];
    if (series.some(s => s.t)) rows.push(["", "@told"]);
    const hover = new M.HoverTool({renderers: hit, tooltips: rows, mode: "mouse", point_policy: "follow_mouse"});
    const box = new M.BoxZoomTool(), pan = new M.PanTool(), wheel = new M.WheelZoomTool({modifiers: {ctrl: true}});
    figure.toolbar.tools = [hover, box, pan, wheel, new M.ResetTool()];
    figure.toolbar.active_drag = coarse ? null : box;
    figure.toolbar.active_scroll = wheel;
    return figure;
  }

  class Chart {
    constructor(spec, host) {
      this.spec = spec;
      this.host = host;
      this.at = spec.choices.map(() => 0);
      this.log = new Map();
      this.picked = new Map();
      this.plot = make("div", {class: "plot", role: "img"});
      this.plot.setAttribute("aria-label", `${spec.title}. The numbers are in the table below the chart.`);
      this.bar = make("div", {class: "chartbar"});
      this.legend = make("ul", {class: "legend"});
      this.legend.setAttribute("aria-label", `Series of the chart ${spec.title}`);
      this.note = make("p", {class: "chartnote"});
      this.note.setAttribute("aria-live", "polite");
      this.numbers = make("details", {class: "numbers"}, make("summary", {textContent: "Numbers of this chart"}));
      this.numbers.addEventListener("toggle", () => this.fill());
      host.append(this.bar, this.plot, this.legend, this.note, this.numbers);
      host.closest("figure").classList.add("live");
      this.controls();
    }

    get view() {
      const found = this.spec.views.find(view => view.at.every((place, index) => place === this.at[index]));
      return found || {at: this.at, x: {l: ""}, panels: [], note: "Nothing was recorded for this choice."};
    }

    /* The view with the reader's own choice of scales. */
    scaled() {
      const view = this.view;
      const pick = (axis, key) => ({...axis, log: this.log.has(key) ? this.log.get(key) : axis.log});
      return {...view, x: pick(view.x, "x"), panels: view.panels.map(panel => ({...panel, y: pick(panel.y, "y")}))};
    }

    isOn(s) { return this.picked.has(s.n) ? this.picked.get(s.n) : !s.off; }

    controls() {
      this.bar.replaceChildren();
      this.spec.choices.forEach((choice, index) => {
        if (choice.options.length < 2) return;
        const select = make("select");
        choice.options.forEach((text, place) => select.append(make("option", {textContent: text, value: place})));
        select.addEventListener("change", () => {
          this.at[index] = Number(select.value);
          this.log.clear();
          this.update();
        });
        this.bar.append(make("label", {}, `${choice.name} `, select));
      });
      this.scales = make("span", {class: "scales"});
      const reset = make("button", {type: "button", textContent: "Reset zoom"});
      reset.addEventListener("click", () => this.update());
      this.bar.append(this.scales, reset);
    }

    update() {
      this.scales.replaceChildren();
      const scaled = this.scaled();
      const axes = [["x", scaled.x], ["y", scaled.panels.length === 1 ? scaled.panels[0].y : {}]];
      for (const [key, axis] of axes) {
        if (!axis.may) continue;
        const button = make("button", {type: "button", textContent: `Log ${key}`});
        button.setAttribute("aria-pressed", String(Boolean(axis.log)));
        button.addEventListener("click", () => {
          this.log.set(key, !axis.log);
          this.update();
          [...this.scales.children].find(other => other.textContent === `Log ${key}`).focus();
        });
        this.scales.append(button);
      }
      this.note.textContent = scaled.note || "";
      this.drawLegend(scaled);
      this.draw(scaled);
      this.fill();
    }

    drawLegend(view) {
      const first = new Map();
      for (const panel of view.panels) for (const s of panel.s)
        if (s.d !== "rule" && !first.has(s.n)) first.set(s.n, s);
      this.legend.replaceChildren();
      this.legend.hidden = first.size < 2;
      for (const [name, s] of first) {
        const box = make("input", {type: "checkbox", checked: this.isOn(s)});
        box.addEventListener("change", () => {
          this.picked.set(name, box.checked);
          this.draw(this.scaled());
          this.fill();
        });
        const swatch = make("span", {class: `swatch s${(s.c % 7) + 1}`});
        swatch.setAttribute("aria-hidden", "true");
        this.legend.append(make("li", {}, make("label", {}, box, swatch, make("bdi", {textContent: name, title: name}))));
      }
      if (first.size > 3) {
        for (const [text, on] of [["All", true], ["None", false]]) {
          const button = make("button", {type: "button", textContent: text});
          button.addEventListener("click", () => {
            for (const name of first.keys()) this.picked.set(name, on);
            this.update();
          });
          this.legend.append(make("li", {}, button));
        }
      }
    }

    visible(view) { return view.panels.map(panel => panel.s.filter(s => s.d === "rule" || this.isOn(s))); }

    async draw(view) {
      const turn = (this.turn = (this.turn || 0) + 1);
      const M = Bokeh.Models;
      const {Document} = Bokeh.require("document/document");
      const series = this.visible(view);
      this.plot.style.minHeight = `${view.panels.reduce((sum, panel) => sum + panel.h - 28, 28)}px`;
      let [lo, hi] = ends(view.x, series.flat(), ["x", "xl", "xh"]);
      /* Names stand to the right of their points. */
      if (series.flat().some(s => s.lab)) hi = view.x.log ? hi * (hi / lo) ** 0.12 : hi + (hi - lo) * 0.12;
      const x_range = new M.Range1d({start: lo, end: hi, reset_start: lo, reset_end: hi});
      const figures = view.panels.map((panel, index) =>
        figureOf(M, view, panel, series[index], x_range, index === view.panels.length - 1));
      const inner = make("div");
      const old = this.views;
      const doc = new Document();
      doc.add_root(figures.length === 1 ? figures[0]
        : new M.Column({children: figures, sizing_mode: "stretch_width", spacing: 2}));
      this.plot.replaceChildren(inner);
      const views = await Bokeh.embed.add_document_standalone(doc, inner);
      if (old) old.clear();
      if (turn !== this.turn) { views.clear(); return; }
      this.views = views;
      this.figures = figures;
      this.plot.dataset.drawn = String(turn);
    }

    rows() {
      const view = this.view, rows = [];
      const several = view.panels.length > 1;
      for (const panel of view.panels) for (const s of panel.s) {
        if (s.d !== "rule" && !this.isOn(s)) continue;
        s.x.forEach((x, i) => {
          if (s.y[i] === null) return;
          const from = s.d === "bars" ? [at(s.xl, i), at(s.xh, i)] : [at(s.lo, i), at(s.hi, i)];
          rows.push([s.p ? `${s.n}, ${s.p}` : s.n, ...(several ? [panel.y.l] : []), s.d === "bars" ? "" : view.x.t ? named(view.x, x) : x,
            panel.y.t ? named(panel.y, s.y[i]) : s.y[i], ...from, at(s.t, i) || ""]);
        });
      }
      const value = several ? "Value" : view.panels.length ? view.panels[0].y.l : "Value";
      return [["Series", ...(several ? ["What"] : []), view.x.l, value, "From", "To", "Told"], rows];
    }

    /* The table behind the chart, made when it is opened. */
    fill() {
      if (!this.numbers.open) return;
      const [head, rows] = this.rows();
      const used = head.map((_, c) => c < 3 || rows.some(row => row[c] !== null && row[c] !== ""));
      const keep = row => row.filter((_, c) => used[c]);
      const table = make("table", {}, make("caption", {textContent: rows.length > TABLE_ROWS
        ? `${this.spec.title}: the first ${TABLE_ROWS} of ${rows.length} rows; the CSV has all.` : this.spec.title}));
      table.append(make("thead", {}, make("tr", {}, ...keep(head).map(text => make("th", {scope: "col", textContent: text})))));
      const body = make("tbody");
      for (const row of rows.slice(0, TABLE_ROWS)) {
        const cells = keep(row).map((value, c) => {
          const isNumber = typeof value === "number";
          const text = isNumber ? shown(value) : value === null ? "—" : value;
          const cell = make(c === 0 ? "th" : "td", {class: isNumber ? "" : "left"}, make("bdi", {textContent: text}));
          if (c === 0) cell.scope = "row";
          if (isNumber) cell.dataset.sort = value;
          return cell;
        });
        body.append(make("tr", {}, ...cells));
      }
      table.append(body);
      const scroll = make("div", {class: "scroll tall", tabIndex: 0, role: "region"}, table);
      scroll.setAttribute("aria-label", `Numbers of the chart ${this.spec.title}`);
      this.numbers.replaceChildren(this.numbers.firstElementChild, scroll);
      Tables.enhance(table, {name: this.spec.id, all: () => [keep(head), rows.map(keep)]});
    }
  }

  function start() {
    const holder = document.getElementById("plots");
    if (!holder || typeof Bokeh === "undefined") return;
    Bokeh.set_log_level("error");
    const watcher = new IntersectionObserver(entries => {
      for (const entry of entries) if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        charts.get(entry.target.id).update();
      }
    }, {rootMargin: "300px"});
    for (const spec of JSON.parse(holder.textContent)) {
      const host = document.getElementById(spec.id);
      if (!host) continue;
      charts.set(spec.id, new Chart(spec, host));
      watcher.observe(host);
    }
  }

  function repaint() { for (const chart of charts.values()) if (chart.plot.dataset.drawn) chart.draw(chart.scaled()); }
  return {start, repaint, charts};
})();
