(function () {
  "use strict";
  // A tensor-transformer, its tokenizer and its polynomials in plain numbers: the twin of `tensorlm.model` and `tensorlm.steering`.
  var EPS = 1e-6;

  function bytesOf(text) {
    var raw = atob(text), bytes = new Uint8Array(raw.length), i;
    for (i = 0; i < raw.length; i += 1) { bytes[i] = raw.charCodeAt(i); }
    return bytes;
  }

  function half(bits) {
    var sign = bits & 32768 ? -1 : 1, power = bits >> 10 & 31, rest = bits & 1023;
    if (power === 31) { return rest ? NaN : sign * Infinity; }
    return sign * (power ? Math.pow(2, power - 15) * (1 + rest / 1024) : Math.pow(2, -24) * rest);
  }

  function unpack(page) {
    var bytes = bytesOf(page.weights), wide = page.dtype === "float32", size = wide ? 4 : 2, view = new DataView(bytes.buffer), found = {}, at = 0;
    Object.keys(page.shapes).forEach(function (name) {
      var count = page.shapes[name].reduce(function (a, b) { return a * b; }, 1), values = new Float32Array(count), i;
      for (i = 0; i < count; i += 1, at += size) { values[i] = wide ? view.getFloat32(at, true) : half(view.getUint16(at, true)); }
      found[name] = values;
    });
    return found;
  }

  function linear(matrix, x, rows) {
    var columns = x.length, even = columns - columns % 4, out = new Float64Array(rows), r, c, at = 0, one, two, three, four;
    for (r = 0; r < rows; r += 1) {
      one = two = three = four = 0;
      for (c = 0; c < even; c += 4, at += 4) {  // four sums, so that none waits for another
        one += matrix[at] * x[c];
        two += matrix[at + 1] * x[c + 1];
        three += matrix[at + 2] * x[c + 2];
        four += matrix[at + 3] * x[c + 3];
      }
      for (; c < columns; c += 1, at += 1) { one += matrix[at] * x[c]; }
      out[r] = one + two + three + four;
    }
    return out;
  }

  function addTo(x, y, factor) { for (var i = 0; i < x.length; i += 1) { x[i] += (factor === undefined ? 1 : factor) * y[i]; } return x; }

  // Norm sites: what they do to x from `from` on; `a` is the share of the constant of an annealed site.
  function normed(site, x, a, head, from, count) {
    var out = Float64Array.from(x), start = from || 0, end = start + (count || x.length), squares = 0, scale = 1, i;
    if (site.kind === "none") { return out; }
    for (i = start; i < end; i += 1) { squares += x[i] * x[i]; }
    squares /= end - start;
    if (site.kind === "rms") { scale = 1 / Math.sqrt(squares + EPS); }
    else { scale = Math.exp(-(1 - a) * 0.5 * Math.log(squares + EPS * EPS) - a * site.log[head || 0]); }
    for (i = start; i < end; i += 1) { out[i] = x[i] * scale; }
    return out;
  }

  function Model(page) {
    this.page = page;
    this.weights = unpack(page);
    this.share = 1;
    this.fading = Float64Array.from({ length: page.heads * page.context }, function (_, i) {
      return Math.exp(-page.slopes[Math.floor(i / page.context)] * (i % page.context));
    });
    this.tokens = page.tokenizer.kind === "bpe" ? bpe(page.tokenizer) : words(page.tokenizer);
  }

  Model.prototype.row = function (token) {
    var width = this.page.width, row = Float64Array.from(this.weights.embedding.subarray(token * width, (token + 1) * width));
    row = normed({ kind: "rms" }, row);
    for (var i = 0; i < width; i += 1) { row[i] *= this.page.input_scale[i % this.page.input_scale.length]; }
    return row;
  };

  Model.prototype.enter = function (token, before) {
    var row = this.row(token), x = Float64Array.from(row);
    if (before && this.page.smear) { addTo(x, before, this.page.smear); }
    return { row: row, x: normed(this.page.input_site, x, this.share) };
  };

  // Queries, keys and values of one position from its normed stream; `fixed` leaves norms of queries and keys to constants.
  Model.prototype.project = function (block, x) {
    var page = this.page, weights = this.weights, share = this.share, found = {};
    ["q1", "q2", "k1", "k2", "v"].forEach(function (name, number) {
      var out = linear(weights[block.prefix + name], x, page.width), site = number < 4 ? block.qk_sites[number] : null, h;
      for (h = 0; site && site.kind !== "none" && h < page.heads; h += 1) { out = normed(site, out, share, h, h * page.head_dim, page.head_dim); }
      if (name.charAt(0) === "q") { for (h = 0; h < page.width; h += 1) { out[h] /= Math.sqrt(page.head_dim); } }
      found[name] = out;
    });
    return found;
  };

  Model.prototype.offset = function (key, before) {
    if (!this.page.key_offset) { return key; }
    var out = Float64Array.from(key), d = this.page.head_dim, h, i;
    for (h = 0; h < this.page.heads; h += 1) {
      for (i = d / 2; i < d; i += 1) { out[h * d + i] = before ? before[h * d + i] : 0; }
    }
    return out;
  };

  Model.prototype.state = function () {
    var page = this.page, d = page.head_dim;
    return { position: 0, row: null, layers: page.blocks.map(function () {
      return { sums: new Float64Array(page.heads * d * d * d), rows: new Float64Array(page.heads), last: null, keys: [], values: [] };
    }) };
  };

  // One position through the attention of a block: memory does not grow, but for the window of the learned table.
  Model.prototype.attend = function (block, x, past) {
    var page = this.page, d = page.head_dim, own = this.project(block, x), table = this.weights[block.prefix + "toeplitz"];
    var k1 = this.offset(own.k1, past.last && past.last.k1), k2 = this.offset(own.k2, past.last && past.last.k2), z = new Float64Array(page.width);
    var h, a, b, e, n, at, pair, decay, sum, base, window, key, one, two;
    past.last = own;
    if (table) {
      past.keys.push([k1, k2]);
      past.values.push(own.v);
      if (past.keys.length > page.context) { past.keys.shift(); past.values.shift(); }
    }
    for (h = 0; h < page.heads; h += 1) {
      decay = Math.exp(-page.slopes[h]);
      base = h * d;
      past.rows[h] = decay * past.rows[h] + 1;
      at = h * d * d * d;
      for (a = 0; a < d; a += 1) {
        for (b = 0; b < d; b += 1) {
          pair = k1[base + a] * k2[base + b];
          sum = own.q1[base + a] * own.q2[base + b];
          for (e = 0; e < d; e += 1, at += 1) {
            past.sums[at] = decay * past.sums[at] + pair * own.v[base + e];
            z[base + e] += sum * past.sums[at];
          }
        }
      }
      window = table ? past.keys.length : 0;
      for (n = 0; n < window; n += 1) {
        key = past.keys[window - 1 - n];
        one = 0;
        two = 0;
        for (a = base; a < base + d; a += 1) { one += own.q1[a] * key[0][a]; two += own.q2[a] * key[1][a]; }
        sum = one * two * this.fading[h * page.context + n] * table[h * page.context + n];
        for (e = base; e < base + d; e += 1) { z[e] += sum * past.values[window - 1 - n][e]; }
      }
      for (e = base; e < base + d; e += 1) { z[e] *= Math.pow(past.rows[h], -page.row_power); }
    }
    return linear(this.weights[block.prefix + "o"], z, page.width);
  };

  Model.prototype.mlp = function (block, x) {
    var left = linear(this.weights[block.prefix + "L"], x, this.page.hidden), right = linear(this.weights[block.prefix + "R"], x, this.page.hidden), i;
    for (i = 0; i < left.length; i += 1) { left[i] *= right[i]; }
    return linear(this.weights[block.prefix + "D"], left, this.page.width);
  };

  Model.prototype.unembed = function (x) { return linear(this.weights.head, normed(this.page.head_site, x, this.share), this.page.vocab); };

  // Logits after one more token; `add(layer, position)` may give a vector that joins the stream before a block, `seen` hears the streams.
  Model.prototype.step = function (token, state, add, seen) {
    var self = this, page = this.page, entered = this.enter(token, state.row), x = entered.x;
    function join(layer) {
      var more = add && add(layer, state.position);
      if (more) { addTo(x, more); }
      if (seen) { seen(layer, x); }
    }
    page.blocks.forEach(function (block, layer) {
      join(layer);
      addTo(x, self.attend(block, normed(block.attention_site, x, self.share), state.layers[layer]));
      addTo(x, self.mlp(block, normed(block.mlp_site, x, self.share)));
    });
    join(page.blocks.length);
    state.row = entered.row;
    state.position += 1;
    return this.unembed(x);
  };

  Model.prototype.logits = function (tokens, add, state) {
    var self = this, past = state || this.state(), last = null;
    tokens.forEach(function (token) { last = self.step(token, past, add); });
    return last;
  };

  // Polynomials: lists of coefficients (Float64Array) in rising powers of t = alpha / unit.
  function scaledBy(site) { return function (row) { return normed(site, row, 1); }; }

  function plus(a, b) {
    var long = a.length < b.length ? b : a, short = a.length < b.length ? a : b;
    return long.map(function (row, i) { return i < short.length ? addTo(Float64Array.from(row), short[i]) : row; });
  }

  function zeros(count, size) { for (var rows = []; rows.length < count;) { rows.push(new Float64Array(size)); } return rows; }

  function times(a, b) {
    var out = zeros(a.length + b.length - 1, a[0].length), i, j, k;
    for (i = 0; i < a.length; i += 1) {
      for (j = 0; j < b.length; j += 1) { for (k = 0; k < a[i].length; k += 1) { out[i + j][k] += a[i][k] * b[j][k]; } }
    }
    return out;
  }

  function dots(a, b, from, size) {
    var out = new Float64Array(a.length + b.length - 1), i, j, k, sum;
    for (i = 0; i < a.length; i += 1) {
      for (j = 0; j < b.length; j += 1) {
        for (sum = 0, k = from; k < from + size; k += 1) { sum += a[i][k] * b[j][k]; }
        out[i + j] += sum;
      }
    }
    return out;
  }

  function product(a, b) {
    var out = new Float64Array(a.length + b.length - 1), i, j;
    for (i = 0; i < a.length; i += 1) { for (j = 0; j < b.length; j += 1) { out[i + j] += a[i] * b[j]; } }
    return out;
  }

  Model.prototype.attended = function (block, streams, last) {
    var self = this, page = this.page, d = page.head_dim, table = this.weights[block.prefix + "toeplitz"], time = streams.length;
    var own = streams.map(function (rows) {
      var parts = rows.map(function (row) { return self.project(block, normed(block.attention_site, row, 1)); }), found = {};
      ["q1", "q2", "k1", "k2", "v"].forEach(function (name) { found[name] = parts.map(function (part) { return part[name]; }); });
      return found;
    });
    if (page.key_offset) {
      own.slice().reverse().forEach(function (here, back) {
        var before = own[time - 2 - back];
        ["k1", "k2"].forEach(function (name) {
          var rows = Math.max(here[name].length, before ? before[name].length : 0), none = new Float64Array(page.width), i, made = [];
          for (i = 0; i < rows; i += 1) { made.push(self.offset(here[name][i] || none, before && before[name][i])); }
          here[name] = made;
        });
      });
    }
    return streams.map(function (rows, i) {
      if (last && i < time - 1) { return null; }
      var z = [], h, j, n, weight, scale, score, values, a, b, e;
      for (h = 0; h < page.heads; h += 1) {
        for (scale = 0, n = 0; n <= i; n += 1) { scale += Math.exp(-page.slopes[h] * n); }
        for (j = 0; j <= i; j += 1) {
          n = i - j;
          weight = Math.exp(-page.slopes[h] * n) * (1 + (table && n < page.context ? table[h * page.context + n] : 0)) * Math.pow(scale, -page.row_power);
          score = product(dots(own[i].q1, own[j].k1, h * d, d), dots(own[i].q2, own[j].k2, h * d, d));
          values = own[j].v;
          while (z.length < score.length + values.length - 1) { z.push(new Float64Array(page.width)); }
          for (a = 0; a < score.length; a += 1) {
            for (b = 0; b < values.length; b += 1) {
              for (e = h * d; e < (h + 1) * d; e += 1) { z[a + b][e] += weight * score[a] * values[b][e]; }
            }
          }
        }
      }
      return plus(rows, z.map(function (row) { return linear(self.weights[block.prefix + "o"], row, page.width); }));
    });
  };

  // Coefficients (powers of alpha / unit) of the logits after `tokens`, with alpha times `vector` before block `layer` where `at(position)`.
  Model.prototype.response = function (tokens, vector, layer, at, unit) {
    var self = this, page = this.page, streams = [], state = this.state(), share = this.share, last;
    this.share = 1;
    tokens.forEach(function (token, position) {
      self.step(token, state, null, function (place, x) {
        if (place !== layer) { return; }
        streams.push(at(position) ? [Float64Array.from(x), vector.map(function (value) { return unit * value; })] : [Float64Array.from(x)]);
      });
    });
    page.blocks.slice(layer).forEach(function (block, number, rest) {
      streams = self.attended(block, streams, number === rest.length - 1).map(function (rows) {
        if (!rows) { return null; }
        var inner = rows.map(scaledBy(block.mlp_site));
        var left = inner.map(function (row) { return linear(self.weights[block.prefix + "L"], row, page.hidden); });
        var right = inner.map(function (row) { return linear(self.weights[block.prefix + "R"], row, page.hidden); });
        return plus(rows, times(left, right).map(function (row) { return linear(self.weights[block.prefix + "D"], row, page.width); }));
      });
    });
    last = streams[streams.length - 1].map(scaledBy(page.head_site));
    this.share = share;
    return { unit: unit, rows: last.map(function (row) { return linear(self.weights.head, row, page.vocab); }) };
  };

  function valuesAt(response, alpha) {
    var t = alpha / response.unit, rows = response.rows, out = Float64Array.from(rows[rows.length - 1]), k, i;
    for (k = rows.length - 2; k >= 0; k -= 1) { for (i = 0; i < out.length; i += 1) { out[i] = out[i] * t + rows[k][i]; } }
    return out;
  }

  function leader(logits) {
    for (var best = 0, i = 1; i < logits.length; i += 1) { if (logits[i] > logits[best]) { best = i; } }
    return best;
  }

  // All strengths in low .. high at which the most likely token changes, to 1e-9: {strength, before, after}.
  function tippingPoints(response, low, high, count) {
    var found = [], lead = function (alpha) { return leader(valuesAt(response, alpha)); }, from = low, first = lead(low), i, to, second;
    function between(left, a, right, b) {
      if (a === b) { return; }
      if (right - left < 1e-9) { found.push({ strength: (left + right) / 2, before: a, after: b }); return; }
      var middle = (left + right) / 2, c = lead(middle);
      between(left, a, middle, c);
      between(middle, c, right, b);
    }
    for (i = 1; i <= count; i += 1) {
      to = low + (high - low) * i / count;
      second = lead(to);
      between(from, first, to, second);
      from = to;
      first = second;
    }
    return found;
  }

  function probabilities(logits, temperature, topK) {
    var order, largest = logits[leader(logits)], total = 0, out = new Float64Array(logits.length), i;
    for (i = 0; i < logits.length; i += 1) { out[i] = Math.exp((logits[i] - largest) / temperature); }
    if (topK && topK < logits.length) {
      order = ordered(logits);
      order.slice(topK).forEach(function (token) { out[token] = 0; });
    }
    for (i = 0; i < out.length; i += 1) { total += out[i]; }
    for (i = 0; i < out.length; i += 1) { out[i] /= total; }
    return out;
  }

  // Numbers between 0 and 1 from a seed (mulberry32).
  function randomOf(seed) {
    return function () {
      seed = seed + 1831565813 | 0;
      var t = Math.imul(seed ^ seed >>> 15, 1 | seed);
      t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
      return ((t ^ t >>> 14) >>> 0) / 4294967296;
    };
  }

  function sample(logits, temperature, topK, random) {
    if (temperature === 0) { return leader(logits); }
    var chances = probabilities(logits, temperature, topK), left = random(), i, last = 0;
    for (i = 0; i < chances.length; i += 1) {
      if (chances[i] > 0) { last = i; left -= chances[i]; }
      if (left < 0) { return i; }
    }
    return last;
  }

  // Byte-level BPE with GPT-2's pre-tokenizer.
  var SPLIT = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

  function byteLetters() {
    var letters = [], next = 256, byte;
    for (byte = 0; byte < 256; byte += 1) {
      letters.push(String.fromCharCode(byte > 32 && byte < 127 || byte > 160 && byte < 173 || byte > 173 ? byte : next++));
    }
    return letters;
  }

  function bpe(table) {
    var letters = byteLetters(), ids = new Map(), ranks = new Map(), kept = new Map(), bytes = new Map();
    table.pieces.forEach(function (piece, id) { ids.set(piece, id); });
    table.merges.forEach(function (merge, rank) { ranks.set(merge, rank); });
    letters.forEach(function (letter, byte) { bytes.set(letter, byte); });

    function merged(word) {
      var parts = Array.from(word), best, at, i, rank;
      while (parts.length > 1) {
        for (best = Infinity, i = 0; i < parts.length - 1; i += 1) {
          rank = ranks.get(parts[i] + " " + parts[i + 1]);
          if (rank !== undefined && rank < best) { best = rank; at = i; }
        }
        if (best === Infinity) { break; }
        parts.splice(at, 2, parts[at] + parts[at + 1]);
      }
      return parts.map(function (part) { return ids.get(part); });
    }

    return {
      encode: function (text) {
        var found = [];
        (text.match(SPLIT) || []).forEach(function (word) {
          var spelled = Array.from(new TextEncoder().encode(word), function (byte) { return letters[byte]; }).join("");
          if (!kept.has(spelled)) { kept.set(spelled, merged(spelled)); }
          kept.get(spelled).forEach(function (id) { found.push(id); });
        });
        return found;
      },
      decode: function (tokens) {
        var spelled = Array.from(tokens, function (id) { return table.pieces[id]; }).join("");
        return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(Array.from(spelled), function (letter) { return bytes.get(letter); }));
      },
      apart: "",
      unknown: function () { return []; }
    };
  }

  // Whole words with one space between them.
  function words(table) {
    var ids = new Map(table.words.map(function (word, id) { return [word, id]; }));
    var split = function (text) { return text.split(/\s+/).filter(Boolean); };
    return {
      encode: function (text) { return split(text).filter(function (word) { return ids.has(word); }).map(function (word) { return ids.get(word); }); },
      decode: function (tokens) { return Array.from(tokens, function (id) { return table.words[id]; }).join(" "); },
      apart: " ",
      unknown: function (text) { return split(text).filter(function (word) { return !ids.has(word); }); }
    };
  }

  // The model that a widget names: it stands in the widget, or in a file beside the book's pages that is loaded once.
  var opened = {};

  function open(wanted, then, fail) {
    var store = window.tlmModels = window.tlmModels || {}, tag = "tlm-model-" + wanted.name, script = document.getElementById(tag);
    function ready() {
      opened[wanted.name] = opened[wanted.name] || new Model(wanted.page || store[wanted.name]);
      then(opened[wanted.name]);
    }
    if (wanted.page || store[wanted.name]) { ready(); return; }
    if (!script) {
      script = document.createElement("script");
      script.id = tag;
      script.src = wanted.file;
      document.head.appendChild(script);
    }
    script.addEventListener("load", ready);
    script.addEventListener("error", function () {
      fail("The weights lie beside the pages of the book, in " + wanted.file + ", and are not here: build the book, or run this cell in Jupyter.");
    });
  }

  // A piece so that its blanks are seen, and the order of tokens from the most to the least likely.
  function shown(piece) { return piece.replace(/\n/g, "\u23ce").replace(/ /g, "\u2423") || "\u2205"; }

  function ordered(chances) { return Array.from(chances.keys()).sort(function (a, b) { return chances[b] - chances[a] || a - b; }); }

  return { Model: Model, open: open, shown: shown, ordered: ordered, valuesAt: valuesAt, leader: leader, tippingPoints: tippingPoints, probabilities: probabilities, randomOf: randomOf,
    sample: sample };
})()
