(function (name, apart, draw) {
  "use strict";
  var SIDE = 8, INKS = 16;
  var dot = function (row, x) { return row.reduce(function (sum, weight, i) { return sum + weight * x[i]; }, 0); };
  var each = function (count, make) { return Array.apply(null, Array(count)).map(function (_, i) { return make(i); }); };
  var kindOf = function (key) { return key === "rest" || key === "total" ? "part" : key.replace(/\d+$/, ""); };

  function evaluate(data, pixels, chosen) {
    var x = pixels.map(function (pixel, i) { return (pixel - data.mean[i]) * data.scale; });
    var hidden = data.L.map(function (row, k) { return dot(row, x) * dot(data.R[k], x); });
    var logits = data.D.map(function (row) { return dot(row, hidden); }), top = 0, out = {}, sum = 0;
    logits.forEach(function (logit, c) { out["logit" + c] = logit; if (logit > logits[top]) { top = c; } });
    if (logits.length > 1 && Math.min.apply(null, logits) === logits[top]) { top = null; }
    var shown = chosen === null ? top || 0 : chosen;
    data.vectors[shown].forEach(function (vector, i) {
      var square = Math.pow(dot(vector, x), 2), value = data.values[shown][i];
      out["lambda" + (i + 1)] = value;
      out["square" + (i + 1)] = square;
      out["part" + (i + 1)] = value * square;
      sum += value * square;
    });
    out.rest = logits[shown] - sum;
    out.total = logits[shown];
    return { numbers: out, top: top, shown: shown };
  }

  function text(value, decimals, signed) {
    var far = Math.abs(value), power = Math.pow(10, decimals), size = Math.floor(far * power + 0.5);
    return (size && value < 0 ? "\u2212" : size && signed ? "+" : "") + (far < 1e15 ? (size / power).toFixed(decimals) : far.toPrecision(7));
  }

  function bitmap(colours) {
    var little = function (number, bytes) { return each(bytes, function (i) { return Math.floor(number / Math.pow(256, i)) % 256; }); };
    var zeros = function (count) { return each(count, function () { return 0; }); }, bytes;
    bytes = [66, 77].concat(little(54 + 3 * SIDE * SIDE, 4), zeros(4), little(54, 4), little(40, 4), little(SIDE, 4), little(SIDE, 4), little(1, 2), little(24, 2), zeros(24));
    each(SIDE, function (row) {
      each(SIDE, function (column) { bytes = bytes.concat(colours[SIDE * (SIDE - 1 - row) + column].slice().reverse()); });
    });
    return "data:image/bmp;base64," + btoa(String.fromCharCode.apply(null, bytes));
  }

  function diverging(stops, value, limit) {
    var place = (value / limit + 1) / 2 * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map(function (a, i) { return Math.floor(a + (place - low) * (stops[low + 1][i] - a) + 0.5); });
  }

  function start(root) {
    var one = function (selector) { return root.querySelector(selector); };
    var all = function (selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };
    var data = JSON.parse(one("script[data-tlm-data]").textContent);
    var ink = data.examples[0].ink.slice(), chosen = null, drawn = null;
    var radios = all("input[type=radio]"), follow = one("[data-follow]");

    function bars(numbers) {
      var bounds = { logit: data.bounds.logit, part: data.bounds.part };
      Object.keys(numbers).forEach(function (key) { bounds[kindOf(key)] = Math.max(bounds[kindOf(key)] || 0, Math.abs(numbers[key])); });
      all("[data-bar]").forEach(function (bar) {
        var value = numbers[bar.dataset.bar], half = 50 * Math.abs(value) / bounds[kindOf(bar.dataset.bar)];
        bar.style.width = half + "%";
        bar.style.left = (value < 0 ? 50 - half : 50) + "%";
        bar.className = value < 0 ? "tlm-below" : "";
      });
    }

    function vectors(shown) {
      if (drawn === shown) { return; }
      drawn = shown;
      all("[data-vector]").forEach(function (image, i) {
        var vector = data.vectors[shown][i], limit = Math.max.apply(null, vector.map(Math.abs)) || 1;
        image.src = bitmap(vector.map(function (value) { return diverging(data.stops, value, limit); }));
      });
    }

    function words(element, now) { if (element.textContent !== now) { element.textContent = now; } }

    function update() {
      var result = evaluate(data, ink.map(function (value) { return value / INKS; }), chosen), numbers = result.numbers;
      all("[data-key]").forEach(function (element) {
        var key = element.dataset.key, kind = kindOf(key);
        if (key === "predicted") { return words(element, result.top === null ? "nothing" : data.labels[result.top]); }
        if (key === "chosen") { return words(element, data.labels[result.shown]); }
        element.dataset.exact = numbers[key].toPrecision(7);
        words(element, text(numbers[key], data.decimals[kind], kind === "logit" || kind === "part"));
      });
      all("tr[data-class]").forEach(function (row, c) {
        row.toggleAttribute("data-top", c === result.top);
        row.toggleAttribute("data-chosen", c === result.shown);
        radios[c].checked = c === result.shown;
      });
      bars(numbers);
      vectors(result.shown);
    }

    radios.forEach(function (radio, c) {
      radio.addEventListener("click", function () { chosen = c; follow.checked = false; update(); });
    });
    follow.addEventListener("change", function () { chosen = follow.checked ? null : drawn; update(); });

    apart(root);
    radios.forEach(function (radio) { radio.name = root.id + "-chosen"; });
    root.dataset.ready = "yes";
    draw(root, data.examples, function (now) { ink = now; update(); });
  }

  document.querySelectorAll("[data-tlm-pad=\"" + name + "\"]:not([data-ready])").forEach(start);
})
