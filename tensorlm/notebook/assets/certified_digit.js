(function (name, apart, draw) {
  "use strict";
  var INKS = 16, STEPS = 200;
  var dot = function (a, b) { return a.reduce(function (sum, each, i) { return sum + each * b[i]; }, 0); };
  var less = function (a, b) { return a.map(function (each, i) { return each - b[i]; }); };

  // Of each class the matrix of its quadratic form in the pixels, the constant left out.
  function forms(data) {
    return data.D.map(function (weights) {
      return data.L[0].slice(1).map(function (_, i) {
        return data.L[0].slice(1).map(function (_, j) {
          return weights.reduce(function (sum, weight, k) {
            return sum + weight / 2 * (data.L[k][i + 1] * data.R[k][j + 1] + data.R[k][i + 1] * data.L[k][j + 1]);
          }, 0);
        });
      });
    });
  }

  // C with C C' = I + tQ, or null where that has an eigenvalue that is not positive.
  function cholesky(Q, t) {
    var C = [], i, j, k, sum;
    for (i = 0; i < Q.length; i += 1) {
      C.push([]);
      for (j = 0; j <= i; j += 1) {
        sum = t * Q[i][j] + (i === j ? 1 : 0);
        for (k = 0; k < j; k += 1) { sum -= C[i][k] * C[j][k]; }
        if (i === j && !(sum > 0)) { return null; }
        C[i].push(i === j ? Math.sqrt(sum) : sum / C[j][j]);
      }
    }
    return C;
  }

  function forward(C, b) {
    return C.reduce(function (y, row, i) { y.push((b[i] - dot(y, row)) / row[i]); return y; }, []);
  }

  function backward(C, b) {
    var x = b.slice(), i, k;
    for (i = x.length - 1; i >= 0; i -= 1) {
      for (k = i + 1; k < x.length; k += 1) { x[i] -= C[k][i] * x[k]; }
      x[i] /= C[i][i];
    }
    return x;
  }

  // The shortest step to a zero of margin + 2 half.step + step.Q step: Newton's method on t, kept between bounds that close in.
  function nearest(Q, half, margin) {
    var low = 0, high = Infinity, t = margin / (2 * dot(half, half)), step = half.map(function () { return 0; }), turn, C, y, left, slope;
    for (turn = 0; turn < STEPS && margin > 0; turn += 1) {
      C = cholesky(Q, t);
      if (C) {
        y = backward(C, forward(C, half));
        step = y.map(function (each) { return -t * each; });
        left = margin - t * dot(half, y) - t * dot(y, y);
        slope = forward(C, y);
        slope = -2 * dot(slope, slope);
        if (left > 0) { low = t; } else { high = t; }
        if (Math.abs(left) < 1e-14 * margin || high - low < 1e-15 * high) { break; }
        t -= left / slope;
      } else { high = t; }
      if (!C || !(t > low && t < high)) { t = high === Infinity ? 2 * low : (low + high) / 2; }
    }
    return step;
  }

  function evaluate(data, matrices, pixels) {
    var x = [1].concat(pixels), left = data.L.map(function (row) { return dot(row, x); }), right = data.R.map(function (row) { return dot(row, x); });
    var logits = data.D.map(function (row) { return row.reduce(function (sum, weight, k) { return sum + weight * left[k] * right[k]; }, 0); });
    var label = logits.indexOf(Math.max.apply(null, logits)), out = { label: label, rival: null, sizes: [], step: null };
    data.D.forEach(function (_, rival) {
      if (rival === label) { out.sizes.push(null); return; }
      var weights = less(data.D[label], data.D[rival]);
      var half = pixels.map(function (_, i) {
        return weights.reduce(function (sum, weight, k) { return sum + weight / 2 * (left[k] * data.R[k][i + 1] + right[k] * data.L[k][i + 1]); }, 0);
      });
      var Q = matrices[label].map(function (row, i) { return less(row, matrices[rival][i]); });
      var step = nearest(Q, half, logits[label] - logits[rival]), size = Math.sqrt(dot(step, step));
      out.sizes.push(size);
      if (out.rival === null || size < out.sizes[out.rival]) { out.rival = rival; out.step = step; }
    });
    return out;
  }

  function diverging(stops, value, limit) {
    var place = (value / limit + 1) / 2 * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map(function (a, i) { return Math.floor(a + (place - low) * (stops[low + 1][i] - a) + 0.5); });
  }

  function grey(value) {
    var shade = Math.floor(255 - 14.5 * INKS * value + 0.5);
    return [shade, shade, shade];
  }

  function start(root) {
    var all = function (selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };
    var data = JSON.parse(root.querySelector("script[data-tlm-data]").textContent), matrices = forms(data);

    function words(element, now) { if (element.textContent !== now) { element.textContent = now; } }

    function paint(key, colours) {
      all("[data-image=" + key + "] rect").forEach(function (rect, i) { rect.setAttribute("fill", "rgb(" + colours[i].join(",") + ")"); });
    }

    function number(element, value, now) {
      element.dataset.exact = value.toPrecision(7);
      words(element, now || (Math.floor(value * 100 + 0.5) / 100).toFixed(2));
    }

    function update(ink) {
      var pixels = ink.map(function (value) { return value / INKS; }), found = evaluate(data, matrices, pixels);
      var limit = Math.max.apply(null, found.step.map(Math.abs)) || 1;
      words(root.querySelector("[data-key=predicted]"), data.labels[found.label]);
      words(root.querySelector("[data-key=rival]"), data.labels[found.rival]);
      number(root.querySelector("[data-key=radius]"), found.sizes[found.rival]);
      all("tr[data-class]").forEach(function (row, c) {
        row.toggleAttribute("data-top", c === found.label);
        row.toggleAttribute("data-chosen", c === found.rival);
        number(row.querySelector("[data-key]"), found.sizes[c] || 0, c === found.label ? "is it" : "");
        row.querySelector("[data-bar]").style.width = 100 * Math.min(1, (found.sizes[c] || 0) / data.bound) + "%";
      });
      paint("drawn", pixels.map(grey));
      paint("step", found.step.map(function (value) { return diverging(data.stops, value, limit); }));
      paint("nearest", pixels.map(function (value, i) { return grey(Math.min(1, Math.max(0, value + found.step[i]))); }));
    }

    apart(root);
    root.dataset.ready = "yes";
    draw(root, data.examples, update);
  }

  document.querySelectorAll("[data-tlm-nearest=\"" + name + "\"]:not([data-ready])").forEach(start);
})
