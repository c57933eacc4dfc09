(function (name) {
  "use strict";

  function evaluate(data, strength, chosen) {
    var row = chosen.reduce(function (values, option) { return values[option]; }, data.values), out = { sum: 0 };
    data.parts.forEach(function (part, i) {
      out["p" + (i + 1)] = row[i] * Math.pow(strength, part.power);
      out.sum += out["p" + (i + 1)];
    });
    return out;
  }

  function text(value) {
    var size = Math.floor(Math.abs(value) * 100 + 0.5);
    return (size ? (value < 0 ? "\u2212" : "+") : "") + (size / 100).toFixed(2);
  }

  function start(root) {
    var one = function (selector) { return root.querySelector(selector); };
    var all = function (selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };
    var data = JSON.parse(one("script[data-tlm-data]").textContent), first = data.inputs[0], frame = data.frame;
    var control = one("input[data-input]"), lists = all("select[data-choice]");
    var keys = data.parts.map(function (_, i) { return "p" + (i + 1); }).concat("sum");
    var x = function (a) { return frame.left + (a - first.low) / (first.high - first.low) * frame.width; };
    var chosen = function () { return lists.map(function (list) { return Number(list.value); }); };
    var scale = function () { return data.scales[chosen()[lists.length - 1]]; };
    var y = function (height) { return frame.top + (scale().max - height) / (scale().max - scale().min) * frame.height; };

    function curves() {
      var columns = [], paths = {}, i, a;
      for (i = 0; i < data.points; i += 1) {
        a = first.low + i * (first.high - first.low) / (data.points - 1);
        columns.push([a, evaluate(data, a, chosen())]);
      }
      keys.forEach(function (key) {
        paths[key] = "M" + columns.map(function (column) { return x(column[0]).toFixed(1) + " " + y(column[1][key]).toFixed(1); }).join("L");
      });
      all("[data-curve]").forEach(function (path) { path.setAttribute("d", paths[path.dataset.curve]); });
      all("[data-axes]").forEach(function (axes) {
        if (Number(axes.dataset.axes) === chosen()[lists.length - 1]) { axes.removeAttribute("display"); } else { axes.setAttribute("display", "none"); }
      });
    }

    function bars(out) {
      var reach = scale().reach, before = 0;
      var place = function (value) { return 50 + 50 * Math.max(-1, Math.min(1, value / reach)); };
      keys.forEach(function (key) {
        var from = key === "sum" ? 0 : before, to = from + out[key], bar = one("[data-bar=\"" + key + "\"]");
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
        element.textContent = text(out[element.dataset.key]);
        element.dataset.exact = out[element.dataset.key].toPrecision(9);
      });
      bars(out);
      all("[data-marker]").forEach(function (dot) {
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

  document.querySelectorAll("[data-tlm-stack=\"" + name + "\"]:not([data-ready])").forEach(start);
})
