(function (name) {
  "use strict";

  function horner(row, strength) {
    return row.reduceRight(function (value, coefficient) { return value * strength + coefficient; }, 0);
  }

  function evaluate(data, strength, chosen) {
    var logits = data.logits[chosen[0]][chosen[1]].map(function (row) { return horner(row, strength); });
    var largest = Math.max.apply(null, logits), out = { sum: 0 };
    var total = logits.reduce(function (sum, value) { return sum + Math.exp(value - largest); }, 0);
    data.prompts[chosen[0]].tokens.forEach(function (token, i) { out["w" + (i + 1)] = Math.exp(logits[token] - largest) / total; });
    data.paths[chosen[0]][chosen[1]].forEach(function (row, i) {
      out["p" + (i + 1)] = horner(row, strength);
      out.sum += out["p" + (i + 1)];
    });
    return out;
  }

  function change(value) {
    var size = Math.floor(Math.abs(value) * 100 + 0.5);
    return (size ? (value < 0 ? "\u2212" : "+") : "") + (size / 100).toFixed(2);
  }

  function chance(value) { return (Math.floor(value * 1000 + 0.5) / 1000).toFixed(3); }

  function start(root) {
    var one = function (selector) { return root.querySelector(selector); };
    var all = function (selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };
    var data = JSON.parse(one("script[data-tlm-data]").textContent), first = data.inputs[0], frame = data.frame;
    var control = one("input[data-input]"), lists = [one("select[data-choice=prompt]"), one("select[data-choice=vector]")];
    var x = function (a) { return frame.left + (a - first.low) / (first.high - first.low) * frame.width; };
    var y = function (probability) { return frame.top + (1.02 - probability) / 1.04 * frame.height; };
    var chosen = function () { return lists.map(function (list) { return Number(list.value); }); };
    var prompt = function () { return data.prompts[chosen()[0]]; };

    function curves() {
      var columns = [], i, a;
      for (i = 0; i < data.points; i += 1) {
        a = first.low + i * (first.high - first.low) / (data.points - 1);
        columns.push([a, evaluate(data, a, chosen())]);
      }
      all("[data-line]").forEach(function (line, index) {
        var key = line.dataset.line, word = prompt().words[index], row = one("[data-row=" + key + "]");
        row.hidden = word === undefined;
        one("[data-word=" + key + "]").textContent = word === undefined ? "" : word;
        if (word === undefined) { line.setAttribute("display", "none"); return; }
        line.removeAttribute("display");
        one("[data-curve=" + key + "]").setAttribute("d", "M" + columns.map(function (column) {
          return x(column[0]).toFixed(1) + " " + y(column[1][key]).toFixed(1);
        }).join("L"));
      });
      one("[data-contest]").textContent = prompt().contest;
    }

    function bars(out) {
      var reach = data.reach[chosen()[0]], before = 0;
      var place = function (value) { return 50 + 50 * Math.max(-1, Math.min(1, value / reach)); };
      all("[data-bar]").forEach(function (bar) {
        var key = bar.dataset.bar, from = key === "sum" ? 0 : before, to = from + out[key];
        bar.style.left = place(Math.min(from, to)) + "%";
        bar.style.width = place(Math.max(from, to)) - place(Math.min(from, to)) + "%";
        before = to;
      });
    }

    function update() {
      var strength = Number(control.value), out = evaluate(data, strength, chosen());
      control.setAttribute("aria-valuetext", first.label + " = " + strength);
      one("output[data-value]").textContent = strength.toFixed(first.decimals);
      all("[data-key]").forEach(function (element) {
        var key = element.dataset.key, value = out[key];
        if (value === undefined) { return; }
        element.textContent = key.charAt(0) === "w" ? chance(value) : change(value);
        element.dataset.exact = value.toPrecision(9);
      });
      bars(out);
      all("[data-marker]").forEach(function (dot) {
        if (out[dot.dataset.marker] === undefined) { return; }
        dot.setAttribute("cx", x(strength));
        dot.setAttribute("cy", y(out[dot.dataset.marker]));
      });
      one("[data-here]").setAttribute("x1", x(strength));
      one("[data-here]").setAttribute("x2", x(strength));
    }

    root.dataset.ready = "yes";
    control.addEventListener("input", update);
    lists.forEach(function (list) { list.addEventListener("change", function () { curves(); update(); }); });
    curves();
    update();
  }

  document.querySelectorAll("[data-tlm-steer=\"" + name + "\"]:not([data-ready])").forEach(start);
})
