// The cost model of jacobians.planning.cost_model, jacobians.planning.cost, jacobians.modes.bracketing and jacobians.kernels.native.program, and the ranking of
// benchmarks.analysis.recommend, for this page. A test holds every number equal to Python's.
"use strict";

const Model = (() => {
  // Python's own, written in front of this script: plots/report/explorer.py.
  const { PER_SAMPLE, MOST_TANGENTS, MOST_COTANGENTS, FEWEST_OPERATIONS, FEWEST_BYTES, NEARBY } = CONSTANTS;
  const { GPU_CALL, GRAPH_START, GRAPH_CALL, GRAPH_BATCH_CALL, GPU_PASSES } = CONSTANTS;
  const { TRITON_START, TRITON_LAYER_S, TRITON_TILE_S, TRITON_AT_ONCE, MOST_NEURONS, MOST_STREAMS, MOST_ROWS, MULTIPROCESSORS, WIDE_ROWS } = CONSTANTS;
  const { NATIVE_CALL, EAGER_CALL, EAGER_OPERATIONS, ROW_S, LAYER_S, NUMBER_S, EFFICIENCY, EAGER_EFFICIENCY, MODES } = CONSTANTS;
  const sum = (numbers) => numbers.reduce((total, value) => total + value, 0);
  const weights = (w) => sum(w.slice(1).map((out, l) => out * w[l]));

  // A problem: widths, batch (null for a single x), itemsize. tanh, no biases.
  function problem(L, D, K, P, N, itemsize = 4) {
    return { widths: [D, ...Array(L).fill(K), P], batch: N === 1 ? null : N, itemsize };
  }
  const samples = (p) => (p.batch === null ? 1 : p.batch);

  function solve(i, j, widths, upTo, downFrom, slow) {
    const rows = widths[j], columns = widths[i - 1], area = rows * columns;
    const ends = [i, j - 1].map((k) => {
      const left = area * (k === i ? 1 : slow) + rows, right = area * (k === j - 1 ? 1 : slow) + columns;
      const scalesLeft = left < right || (left === right && k === i);
      return { cost: upTo[k] + downFrom[k + 1] + widths[k] * Math.min(left, right), at: k, scalesLeft };
    });
    let best = ends[0].cost <= ends[1].cost ? ends[0] : ends[1];
    const each = slow * area + Math.min(rows, columns), end = best;
    for (let k = i + 1; k < j - 1; k++) {
      const cost = upTo[k] + downFrom[k + 1] + widths[k] * each;
      if (cost < end.cost && (best === end || cost < best.cost)) best = { cost, at: k, scalesLeft: rows <= columns };
    }
    return best;
  }

  function bracketing(widths, batched) {
    const n = widths.length - 1, slow = batched ? PER_SAMPLE : 1;
    const fromFirst = Array.from({ length: n + 2 }, () => Array(n + 2).fill(0));
    const toLast = Array.from({ length: n + 2 }, () => Array(n + 2).fill(0));
    const solved = {};
    for (let length = 2; length <= n; length++) {
      for (let i = 1; i <= n - length + 1; i++) {
        const j = i + length - 1, found = solve(i, j, widths, fromFirst[i], toLast[j], slow);
        solved[`${i},${j}`] = found;
        fromFirst[i][j] = toLast[j][i] = found.cost;
      }
    }
    const tree = (i, j) => {
      if (i === j) return null;
      const { at, scalesLeft } = solved[`${i},${j}`];
      return { first: i, last: j, at, scalesLeft, left: tree(at + 1, j), right: tree(i, at) };
    };
    return tree(1, n);
  }

  function isOneSided(tree, widths, forward) {
    while (tree !== null) {
      const bare = forward ? tree.left : tree.right, rest = forward ? tree.right : tree.left;
      const eitherSide = tree.left === null && tree.right === null && widths[tree.last] === widths[tree.first - 1];
      if (bare !== null || (tree.scalesLeft === forward && !eitherSide)) return false;
      tree = rest;
    }
    return true;
  }
  const modeOf = (tree, widths) => (isOneSided(tree, widths, false) ? "reverse" : isOneSided(tree, widths, true) ? "forward" : "mixed");

  function multiplyAdds(tree, widths, scaled) {
    if (tree === null) return 0;
    const rows = widths[tree.last], inner = widths[tree.at], columns = widths[tree.first - 1];
    const scaling = scaled ? inner * (tree.scalesLeft ? rows : columns) : 0;
    return rows * inner * columns + scaling + multiplyAdds(tree.left, widths, scaled) + multiplyAdds(tree.right, widths, scaled);
  }

  function cost(p, mode) {
    const w = p.widths, n = w.length, D = w[0], P = w[n - 1], N = samples(p);
    const layers = w.slice(1).map((out, l) => [w[l], out]);
    const hidden = sum(w.slice(1, -1)), flopsOf = (some) => sum(some.map(([i, o]) => 2 * i * o));
    const evaluation = flopsOf(layers.slice(0, -1)) + 2 * hidden;
    let chain;
    if (mode === "forward") chain = D * (flopsOf(layers.slice(1)) + hidden);
    else if (mode === "reverse") chain = P * (flopsOf(layers.slice(0, -1)) + hidden);
    else {
      const tree = bracketing(w, p.batch !== null);
      chain = multiplyAdds(tree, w, false) + multiplyAdds(tree, w, true);
    }
    return { flops: N * (evaluation + chain), bytes: p.itemsize * (weights(w) + N * (D + P * D)) };
  }

  function oneSided(mode, layers) {
    let tree = null;
    if (mode === "forward") for (let last = 2; last <= layers; last++) tree = { first: 1, last, at: last - 1, scalesLeft: false, left: null, right: tree };
    else for (let first = layers - 1; first > 0; first--) tree = { first, last: layers, at: first, scalesLeft: true, left: tree, right: null };
    return tree;
  }

  // The matrix products of a tree, and the numbers copied for those whose factor is a scaled weight.
  function productsOf(tree, widths) {
    const found = { products: [], copied: 0 };
    const operand = (part, first, last, scaled) => {
      if (part !== null) multiply(part);
      else if (scaled) found.copied += widths[last] * widths[first - 1];
    };
    const multiply = (t) => {
      operand(t.left, t.at + 1, t.last, t.scalesLeft);
      operand(t.right, t.first, t.at, !t.scalesLeft);
      found.products.push([widths[t.last], widths[t.first - 1], widths[t.at]]);
    };
    if (tree === null) found.copied = widths[1] * widths[0];
    else multiply(tree);
    return found;
  }

  function outline(mode, p, most) {
    const w = p.widths, layers = w.length - 1, L = layers - 1, D = w[0], P = w[layers], N = samples(p);
    let tree = null, real = mode;
    if (mode === "mixed") {
      tree = bracketing(w, false);
      real = modeOf(tree, w);
    }
    if (real !== "mixed") tree = oneSided(real, layers);
    const seeds = real === "forward" ? D : P;
    let kind = "products";
    if (p.batch !== null && real !== "mixed" && (L === 0 || N >= 32 || seeds < 16 || Math.max(...w) < 32)) kind = "blocks";
    else if (real === "forward" && D <= MOST_TANGENTS) kind = "tangents";
    else if (real === "reverse" && P <= MOST_COTANGENTS && L > 0) kind = "cotangents";
    const { products, copied } = kind === "products" ? productsOf(tree, w) : { products: [], copied: 0 };
    let worth;
    if (kind === "tangents" || kind === "cotangents") worth = N * weights(w) * p.itemsize >= FEWEST_BYTES;
    else if (kind === "products") worth = N * (sum(products.map(([m, n, k]) => 2 * m * k * n)) + 2 * copied) >= FEWEST_OPERATIONS;
    else worth = N * weights(w) * 2 * seeds >= FEWEST_OPERATIONS;
    return {
      mode: real, blocks: kind === "blocks", tangents: kind === "tangents" ? D : 0, cotangents: kind === "cotangents" ? P : 0,
      products, copied, threads: worth ? most : 1,
    };
  }

  function bandwidth(machine, workingSet) {
    const below = machine.read.filter(([size]) => size <= workingSet), above = machine.read.filter(([size]) => size > workingSet);
    if (!below.length || !above.length) return (below.length ? below[below.length - 1] : above[0])[1];
    const [small, fast] = below[below.length - 1], [large, slow] = above[0];
    const share = Math.log(workingSet / small) / Math.log(large / small);
    return fast ** (1 - share) * slow ** share;
  }
  const rateOf = (p, machine, efficiency) => (efficiency * machine.gemm * 4) / Math.max(4, p.itemsize);

  function native(p, mode, machine) {
    const o = outline(mode, p, machine.threads), w = p.widths, N = samples(p), n = w.length, threads = o.threads;
    const rate = (rateOf(p, machine, EFFICIENCY) * threads) / Math.max(1, machine.threads);
    const lanes = 64 / p.itemsize, all = weights(w), stored = p.itemsize * all, hidden = sum(w.slice(1));
    const D = w[0], P = w[n - 1], output = p.itemsize * N * P * D;
    let seconds = NATIVE_CALL * machine.call_s + (threads > 1 ? LAYER_S * (n - 2) : 0);
    if (o.blocks) {
      const seeds = o.mode === "forward" ? D : P, block = N <= 4 * lanes ? lanes : 4 * lanes;
      const padded = Math.ceil(N / block) * block, first = w[0] * w[1], last = w[n - 2] * w[n - 1];
      const chain = seeds * (all - (o.mode === "forward" ? first : last));
      const carried = seeds * (hidden - P) + 2 * hidden + D + P * D;
      return seconds + (2 * padded * (all + chain)) / rate + (padded * carried * NUMBER_S) / 2 / threads + output / bandwidth(machine, output);
    }
    const share = threads >= machine.threads ? 1 : stored < 2 ** 20 ? machine.threads / threads : 1.5;
    const evaluations = N * ((stored / bandwidth(machine, stored)) * share);
    const rows = (N * hidden * (1 + o.tangents) * ROW_S) / threads;
    seconds += evaluations * (1 + o.tangents / 6) + rows + (N * hidden * NUMBER_S) / threads;
    if (o.cotangents) seconds += evaluations * (1 + (o.cotangents - 1) / 6);
    seconds += (N * o.copied * NUMBER_S) / 2 / threads;
    for (const [m, columns, inner] of o.products) {
      const padded = Math.ceil(columns / lanes) * lanes;
      seconds += N * ((2 * m * padded * inner) / rate + ((m * padded + inner * padded) * NUMBER_S) / 4 / threads);
    }
    return seconds + output / bandwidth(machine, output);
  }

  function eager(p, mode, machine, implementation = "eager") {
    const work = cost(p, mode), w = p.widths, L = w.length - 2, N = samples(p), gpu = machine.device !== "cpu", graph = implementation === "cuda-graph";
    const start = gpu && graph ? GRAPH_START : 0;
    const each = !gpu ? EAGER_CALL : !graph ? GPU_CALL : p.batch === null ? GRAPH_CALL : GRAPH_BATCH_CALL;
    const streams = mode === "forward" ? w[0] : w[w.length - 1];
    const carried = gpu ? GPU_PASSES * p.itemsize * N * sum(w.slice(1, -1)) * (1 + streams) : 0;
    const calls = (start + EAGER_OPERATIONS[mode] * (L + 1) * each) * machine.call_s + carried / bandwidth(machine, carried);
    const passes = mode === "forward" ? 1 : 2;
    return calls + work.flops / rateOf(p, machine, EAGER_EFFICIENCY) + (passes * work.bytes) / bandwidth(machine, work.bytes);
  }
  // Blocks of the kernels in Triton; Infinity where they do not serve.
  const powerOfTwo = (least) => 2 ** Math.ceil(Math.log2(least));
  function triton(p, mode, machine) {
    const w = p.widths, L = w.length - 2, N = samples(p), D = w[0], P = w[w.length - 1], reverse = mode === "reverse";
    if (mode === "mixed" || L === 0 || p.itemsize !== 4 || Math.max(...w.slice(1, -1)) > MOST_NEURONS) return Infinity;
    if (!reverse && D + 1 > MOST_STREAMS) return Infinity;
    const streams = powerOfTwo(reverse ? Math.min(2, P) : D + 1), most = Math.max(1, Math.floor(MOST_ROWS / streams));
    const few = Math.min(most, powerOfTwo(Math.ceil(Math.max(1, N) / MULTIPROCESSORS)));
    const each = Math.max(few, reverse ? 16 : 1, Math.ceil(16 / streams));
    const blocks = Math.ceil(N / each) * (reverse ? Math.ceil(P / streams) : 1);
    const tiles = reverse ? Math.ceil(D / 16) + Math.ceil(D / 32) : Math.ceil(P / 32);
    const written = p.itemsize * N * P * D, waves = Math.max(1, blocks / TRITON_AT_ONCE);
    return TRITON_START * machine.call_s + waves * (TRITON_LAYER_S * L + TRITON_TILE_S * tiles) + written / bandwidth(machine, written);
  }
  // The kernels of wide networks, a launch a layer; Infinity where they do not serve.
  function layers(p, mode, machine) {
    const w = p.widths, N = samples(p), P = w[w.length - 1], reverse = mode === "reverse", ways = reverse ? 2 : 1;
    if (mode === "mixed" || p.itemsize !== 4 || N === 0 || N * (reverse ? P : powerOfTwo(1 + w[0])) > WIDE_ROWS) return Infinity;
    const read = ways * p.itemsize * sum(w.slice(1).map((out, index) => out * w[index]));
    return (GRAPH_START + ways * (w.length - 1) * GRAPH_CALL) * machine.call_s + read / bandwidth(machine, read);
  }
  function estimate(p, mode, implementation, machine) {
    if (implementation === "native") return native(p, mode, machine);
    if (implementation === "triton") return triton(p, mode, machine);
    if (implementation === "triton-graph") return layers(p, mode, machine);
    return eager(p, mode, machine, implementation);
  }

  function features(p) {
    const w = p.widths, hidden = w.slice(1, -1);
    const width = hidden.length ? sum(hidden.map(Math.log2)) / hidden.length : 0;
    return [Math.log2(w.length - 1), Math.log2(w[0]), width, Math.log2(w[w.length - 1]), Math.log2(Math.max(1, samples(p)))];
  }
  function distance(one, other) {
    const a = features(one), b = features(other);
    return Math.max(...a.map((value, k) => Math.abs(value - b[k])));
  }
  const same = (a, b) => a.widths.join() === b.widths.join() && a.batch === b.batch && a.itemsize === b.itemsize;

  // Ours by the model, the peers scaled from the nearest measured problem; `measured` where this very problem was.
  function recommend(p, machine) {
    let near = null, best = [Infinity, 0];
    for (const group of machine.problems) {
      const key = [distance(p, group) + (group.plain && same(p, group) ? 0 : 1e-6) + (group.normal ? 1e-6 : 0), -group.times.length];
      if (key[0] < best[0] || (key[0] === best[0] && key[1] < best[1])) [near, best] = [group, key];
    }
    const away = best[0] < 1e-5 ? 0 : best[0], here = near !== null && away === 0 && near.plain && same(p, near);
    const known = here ? Object.fromEntries(near.times) : {};
    const ranked = [];
    for (const implementation of machine.ours) {
      for (const mode of MODES) {
        const method = `${mode}:${implementation}`;
        const predicted = estimate(p, mode, implementation, machine);
        if (predicted < Infinity) ranked.push({ method, ours: true, predicted, measured: known[method] ?? null });
      }
    }
    const ours = ranked.length, order = (r) => [r.predicted, r.method.startsWith("mixed"), r.method.startsWith("forward")];
    ranked.sort((a, b) => { const [x, y] = [order(a), order(b)]; return x[0] - y[0] || x[1] - y[1] || x[2] - y[2]; });
    for (const [method, seconds] of near === null ? [] : near.times) {
      const [mode, implementation] = [method.slice(0, method.indexOf(":")), method.slice(method.indexOf(":") + 1)];
      if (machine.ours.includes(implementation) || (implementation === "sum-trick" && p.widths[p.widths.length - 1] !== 1)) continue;
      const scale = eager(p, mode, machine) / eager(near, mode, machine);
      ranked.push({ method, ours: false, predicted: seconds * scale, measured: known[method] ?? null });
    }
    const byMeasure = ranked.filter((r) => r.ours && r.measured !== null).length === ours;
    const time = (r) => (r.measured !== null && (byMeasure || !r.ours) ? r.measured : r.predicted);
    ranked.forEach((r) => { r.seconds = time(r); });
    ranked.sort((a, b) => a.seconds - b.seconds);
    const confidence = here ? "measured" : away <= NEARBY ? "nearby" : "extrapolated";
    return { ranked, confidence, nearest: near, best: ranked.find((r) => r.ours) };
  }

  return { problem, cost, estimate, recommend, distance };
})();
if (typeof module !== "undefined") module.exports = Model;
