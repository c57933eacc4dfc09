(function (name, apart) {
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
    var ink = data.examples[0].ink.slice(), chosen = null, active = 0, drawn = null, last = null, erasing = false;
    var paper = one("[data-paper]"), cells = all("[role=gridcell]"), radios = all("input[type=radio]"), follow = one("[data-follow]");

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
      cells.forEach(function (cell, i) {
        var grey = Math.floor(255 - 14.5 * ink[i] + 0.5);
        cell.style.background = "rgb(" + grey + "," + grey + "," + grey + ")";
        cell.setAttribute("aria-label", "row " + (Math.floor(i / SIDE) + 1) + ", column " + (i % SIDE + 1) + ": ink " + ink[i] + " of " + INKS);
      });
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

    function activate(index) {
      cells[active].removeAttribute("data-active");
      active = index;
      cells[active].setAttribute("data-active", "");
      paper.setAttribute("aria-activedescendant", cells[active].id);
    }

    function set(value) {
      ink[active] = value;
      update();
      words(one("[data-heard]"), cells[active].getAttribute("aria-label"));
    }

    // Full ink up to 0.3 cells from the stroke, none beyond 1.2: about as wide and as grey as the strokes of the data.
    function stroke(from, to) {
      var along = [to[0] - from[0], to[1] - from[1]], length = along[0] * along[0] + along[1] * along[1];
      ink = ink.map(function (before, i) {
        var way = [i % SIDE + 0.5 - from[0], Math.floor(i / SIDE) + 0.5 - from[1]];
        var part = length ? Math.min(1, Math.max(0, (way[0] * along[0] + way[1] * along[1]) / length)) : 0;
        var far = Math.hypot(way[0] - part * along[0], way[1] - part * along[1]);
        var wet = Math.round(INKS * Math.min(1, Math.max(0, (1.2 - far) / 0.9)));
        return erasing ? Math.min(before, INKS - wet) : Math.max(before, wet);
      });
    }

    function place(event) {
      var box = paper.getBoundingClientRect();
      return [(event.clientX - box.left - paper.clientLeft) / paper.clientWidth * SIDE, (event.clientY - box.top - paper.clientTop) / paper.clientHeight * SIDE];
    }

    paper.addEventListener("pointerdown", function (event) {
      if (event.button !== 0 || last) { return; }
      paper.removeAttribute("data-keys");
      paper.setPointerCapture(event.pointerId);
      last = { id: event.pointerId, at: place(event) };
      activate(SIDE * Math.min(SIDE - 1, Math.max(0, Math.floor(last.at[1]))) + Math.min(SIDE - 1, Math.max(0, Math.floor(last.at[0]))));
      stroke(last.at, last.at);
      update();
    });
    paper.addEventListener("pointermove", function (event) {
      if (!last || event.pointerId !== last.id) { return; }
      var now = place(event);
      stroke(last.at, now);
      last.at = now;
      update();
    });
    ["pointerup", "pointercancel", "lostpointercapture"].forEach(function (kind) {
      paper.addEventListener(kind, function (event) { if (last && event.pointerId === last.id) { last = null; } });
    });

    paper.addEventListener("keydown", function (event) {
      var row = Math.floor(active / SIDE), column = active % SIDE, key = event.key;
      var moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -column], End: [0, SIDE - 1 - column] };
      if (event.ctrlKey || event.altKey || event.metaKey) { return; }
      if (moves.hasOwnProperty(key)) {
        activate(SIDE * Math.min(SIDE - 1, Math.max(0, row + moves[key][0])) + Math.min(SIDE - 1, Math.max(0, column + moves[key][1])));
      } else if (key === " ") { set(ink[active] ? 0 : INKS);
      } else if (/^[0-9]$/.test(key)) { set(Math.round(Number(key) / 9 * INKS));
      } else if (key === "Delete" || key === "Backspace") { set(0);
      } else { return; }
      paper.setAttribute("data-keys", "");
      event.preventDefault();
      event.stopPropagation();
    });

    one("[data-clear]").addEventListener("click", function () { ink = each(SIDE * SIDE, function () { return 0; }); update(); });
    one("[data-eraser]").addEventListener("click", function (event) {
      erasing = !erasing;
      event.currentTarget.setAttribute("aria-pressed", String(erasing));
    });
    all("[data-example]").forEach(function (button, i) {
      button.addEventListener("click", function () { ink = data.examples[i].ink.slice(); update(); });
    });
    radios.forEach(function (radio, c) {
      radio.addEventListener("click", function () { chosen = c; follow.checked = false; update(); });
    });
    follow.addEventListener("change", function () { chosen = follow.checked ? null : drawn; update(); });

    apart(root);
    radios.forEach(function (radio) { radio.name = root.id + "-chosen"; });
    paper.tabIndex = 0;
    activate(0);
    root.dataset.ready = "yes";
    update();
  }

  document.querySelectorAll("[data-tlm-pad=\"" + name + "\"]:not([data-ready])").forEach(start);
})
