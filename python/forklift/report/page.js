"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const PHASES = [["decode", 6, "decode items"], ["compute", 7, "compute"], ["encode", 8, "encode results"], ["copy", 9, "hand over"]];
  const colour = (name) => getComputedStyle(document.body).getPropertyValue("--" + name).trim();
  const scaled = (value, units) => {
    for (const [unit, name] of units) if (Math.abs(value) >= unit * 0.9995) return +(value / unit).toPrecision(3) + " " + name;
    return value ? +value.toPrecision(3) + " " + units.at(-1)[1] : "0";
  };
  const seconds = (value) => scaled(value, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]]);
  const size = (value) => scaled(value, [[1e9, "GB"], [1e6, "MB"], [1e3, "KB"], [1, "B"]]);
  const count = (value) => value.toLocaleString("en");
  const plots = [];
  const timed = [];

  // Pictures over time show the same time: one that is zoomed takes the others along.
  let following = false;
  const follow = (plot, key) => {
    if (key !== "x" || following) return;
    following = true;
    const { min, max } = plot.scales.x;
    for (const other of timed) if (other !== plot) other.setScale("x", { min, max });
    following = false;
  };

  const axis = (extra) => ({
    stroke: () => colour("muted"), grid: { stroke: () => colour("line"), width: 1 },
    ticks: { stroke: () => colour("line"), width: 1 }, font: "12px system-ui, sans-serif", ...extra,
  });
  const make = (name, height, options, data) => {
    const place = document.getElementById(name);
    if (!place) return null;
    const overTime = options.overTime;
    delete options.overTime;
    const hooks = options.hooks ?? {};
    if (overTime) {
      options.cursor = { ...options.cursor, sync: { key: "time" } };
      hooks.setScale = [(plot, key) => follow(plot, key)];
      options.scales = { ...options.scales, x: { time: false, range: (_, low, high) => low === high ? [0, report.wall || 1] : [low, high] } };
    }
    const plot = new uPlot({ width: place.clientWidth, height, ...options, hooks }, data, place);
    new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height })).observe(place);
    plots.push(plot);
    if (overTime) timed.push(plot);
    return plot;
  };
  const timeAxis = () => axis({ values: (_, ticks) => ticks.map(seconds), space: 70 });
  const whole = [0, report.wall || 1];

  // Workers ------------------------------------------------------------------------------------------------------
  const rows = new Map(report.lanes.map((slot, index) => [slot, index]));
  const bySlot = new Map(report.lanes.map((slot) => [slot, []]));
  for (const chunk of report.chunks) bySlot.get(chunk[2])?.push(chunk);

  const drawWorkers = (plot) => {
    const { ctx, bbox } = plot;
    const colours = PHASES.map(([name]) => colour(name));
    const at = (value) => plot.valToPos(value, "x", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const { min, max } = plot.scales.x;
    for (const [slot, chunks] of bySlot) {
      const top = plot.valToPos(rows.get(slot) - 0.4, "y", true);
      const height = plot.valToPos(rows.get(slot) + 0.4, "y", true) - top;
      ctx.fillStyle = colour("wait");
      ctx.globalAlpha = 0.55;
      ctx.fillRect(bbox.left, top, bbox.width, height);
      for (const chunk of chunks) {
        if (chunk[1] < min || chunk[0] > max) continue;
        const spent = PHASES.map(([, index]) => chunk[index]);
        const busy = spent.reduce((sum, part) => sum + part, 0);
        const left = at(chunk[0]), width = Math.max(at(chunk[1]) - left, 1);
        // Several answers drawn as one are as dense as they were busy.
        ctx.globalAlpha = chunk[5] > 1 ? Math.max(0.25, Math.min(1, busy / Math.max(chunk[1] - chunk[0], 1e-9))) : 1;
        let from = left;
        spent.forEach((part, index) => {
          const wide = busy ? (width * part) / busy : 0;
          ctx.fillStyle = colours[index];
          ctx.fillRect(from, top, wide, height);
          from += wide;
        });
        if (width > 12 * devicePixelRatio) {
          ctx.globalAlpha = 1;
          ctx.fillStyle = colour("bg");
          ctx.fillRect(left + width - 1, top, 1, height);
        }
      }
    }
    ctx.globalAlpha = 1;
    ctx.font = `bold ${14 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    for (const [moment, what, slot] of report.incidents) {
      if (!rows.has(slot)) continue;
      ctx.fillStyle = colour(what === "died" ? "result" : "muted");
      ctx.fillText(what === "died" ? "✕" : "↻", at(moment), plot.valToPos(rows.get(slot), "y", true));
    }
    ctx.restore();
  };
  const readWorkers = (plot) => {
    const { left, top } = plot.cursor;
    const place = document.getElementById("timeline-reading");
    const moment = left >= 0 ? plot.posToVal(left, "x") : -1;
    const slot = left >= 0 ? report.lanes[Math.round(plot.posToVal(top, "y"))] : -1;
    const found = (bySlot.get(slot) ?? []).find((chunk) => chunk[0] <= moment && moment <= chunk[1]);
    if (!found) { place.textContent = ""; return; }
    const items = found[4] > 1 ? `${count(found[4])} items from ${count(found[3])} on` : `item ${count(found[3])}`;
    const parts = PHASES.filter(([, index]) => found[index] > 0).map(([, index, words]) => `${words} ${seconds(found[index])}`);
    place.textContent = `worker ${slot}, ${items}, ${seconds(found[1] - found[0])}: ${parts.join(", ")}`;
  };
  const lanes = report.lanes.length;
  make("timeline", Math.min(600, 70 + 30 * lanes), {
    overTime: true,
    legend: { show: false },
    cursor: { drag: { x: true, y: false } },
    scales: { y: { range: [-0.6, lanes - 0.4], dir: -1 } },
    axes: [timeAxis(), axis({
      grid: { show: false }, ticks: { show: false }, size: 72,
      splits: () => report.lanes.map((_, index) => index).filter((index) => lanes <= 18 || index % Math.ceil(lanes / 18) === 0),
      values: (_, ticks) => ticks.map((index) => `worker ${report.lanes[index]}`),
    })],
    series: [{}, { points: { show: false } }],
    hooks: { draw: [drawWorkers], setCursor: [readWorkers] },
  }, [whole, [null, null]]);

  // Memory and chunk sizes -----------------------------------------------------------------------------------------
  const column = (table, index) => table.map((row) => row[index]);
  const line = (label, name, write) => ({
    label, width: 2, stroke: () => colour(name), value: (_, value) => (value == null ? "" : write(value)), points: { show: false },
  });
  make("memory", 240, {
    overTime: true,
    scales: { y: { range: (_, low, high) => [0, (high || 1) * 1.08] } },
    axes: [timeAxis(), axis({ values: (_, ticks) => ticks.map(size), size: 72 })],
    series: [
      { label: "at", value: (_, value) => (value == null ? "" : seconds(value)) },
      line("this process", "point", size), line("workers", "compute", size), line("shared", "pull", size),
    ],
  }, [0, 1, 2, 3].map((index) => column(report.memory, index)));

  const sizes = report.chunks.map((chunk) => chunk[4] / chunk[5]);
  const wideRange = Math.max(...sizes, 1) / Math.max(Math.min(...sizes), 1) > 20;
  make("chunks", 220, {
    overTime: true,
    scales: { y: wideRange ? { distr: 3, log: 10 } : { range: (_, low, high) => [0, Math.max(2, high * 1.1)] } },
    axes: [timeAxis(), axis({ values: (_, ticks) => ticks.map((tick) => (tick == null || tick % 1 ? "" : count(tick))), size: 72 })],
    series: [
      { label: "at", value: (_, value) => (value == null ? "" : seconds(value)) },
      {
        label: "items", stroke: () => colour("point"), paths: () => null, value: (_, value) => (value == null ? "" : count(Math.round(value))),
        points: { show: true, size: 5, fill: () => colour("point"), stroke: () => colour("point") },
      },
    ],
  }, [column(report.chunks, 0), sizes]);

  // Times of items -------------------------------------------------------------------------------------------------
  const bins = report.times;
  make("times", 220, {
    cursor: { drag: { x: false, y: false } },
    scales: { x: { time: false, range: [-0.6, bins.length - 0.4] }, y: { range: (_, low, high) => [0, (high || 1) * 1.08] } },
    axes: [
      axis({
        grid: { show: false }, space: 80,
        splits: (plot) => {
          const step = Math.max(1, Math.ceil(bins.length / Math.max(1, Math.floor(plot.bbox.width / devicePixelRatio / 80))));
          return bins.map((_, index) => index).filter((index) => index % step === 0);
        },
        values: (_, ticks) => ticks.map((index) => (bins[index] ? seconds(bins[index][0]) : "")),
      }),
      axis({ values: (_, ticks) => ticks.map((tick) => (tick % 1 ? "" : count(tick))), size: 72 }),
    ],
    series: [
      { label: "took", value: (_, index) => (bins[index] ? `${seconds(bins[index][0])} to ${seconds(bins[index][1])}` : "") },
      {
        label: "items", fill: () => colour("compute"), stroke: () => colour("compute"), points: { show: false },
        paths: uPlot.paths.bars({ size: [0.9, 80] }), value: (_, value) => (value == null ? "" : count(value)),
      },
    ],
  }, [bins.map((_, index) => index), column(bins, 2)]);

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach((plot) => plot.redraw(false, true)));
  document.documentElement.dataset.drawn = String(plots.length);
})();
