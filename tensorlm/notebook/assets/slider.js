(function (name, apart) {
  "use strict";
  var dot = function (row, x) { return row.reduce(function (sum, weight, i) { return sum + weight * x[i]; }, 0); };
  var horner = function (c, a) { return c.reduceRight(function (sum, weight) { return sum * a + weight; }, 0); };

  var functions = {
    bilinear: function (data, x, out) {
      var h = data.L.map(function (row, k) {
        out["l" + (k + 1)] = dot(row, x);
        out["r" + (k + 1)] = dot(data.R[k], x);
        out["h" + (k + 1)] = out["l" + (k + 1)] * out["r" + (k + 1)];
        return out["h" + (k + 1)];
      });
      data.D.forEach(function (row, o) { out["f" + (o + 1)] = dot(row, h); });
    },
    scale: function (data, values, out) {
      var a = values[0], total = 0, at_ax = 0, at_x = 0;
      var ax = data.point.map(function (x) { return a * x; });
      data.D.forEach(function (d, k) {
        var c = d * dot(data.L[k], ax) * dot(data.R[k], ax);
        out["c" + (k + 1)] = c;
        total += Math.abs(c);
        at_ax += c;
        at_x += d * dot(data.L[k], data.point) * dot(data.R[k], data.point);
      });
      data.D.forEach(function (d, k) { out["s" + (k + 1)] = total > 0 ? Math.abs(out["c" + (k + 1)]) / total : null; });
      out.f = at_ax;
      out.a2f = a * a * at_x;
    },
    polynomial: function (data, values, out) {
      data.curves.forEach(function (curve, i) {
        var below = horner(curve.denominator, values[0]);
        out["y" + (i + 1)] = below === 0 ? null : horner(curve.numerator, values[0]) / below;
      });
    }
  };

  function text(value) {
    if (value === null) { return "undefined"; }
    return (Math.abs(value) < 1e-12 ? 0 : value).toPrecision(7);
  }

  function bar(element, value) {
    var half = 50 * Math.min(1, Math.abs(value || 0) / Number(element.dataset.bound));
    element.style.width = half + "%";
    element.style.left = (value < 0 ? 50 - half : 50) + "%";
    element.className = value < 0 ? "tlm-below" : "";
  }

  function mark(element, data, value, a) {
    var box = data.box, x = box.left + (a - box.low) / (box.high - box.low) * box.width;
    var y = value === null ? NaN : box.top + (box.max - value) / (box.max - box.min) * box.height;
    var inside = y >= box.top - 0.5 && y <= box.top + box.height + 0.5;
    element.setAttribute("cx", x);
    element.setAttribute("cy", inside ? y : box.top);
    element.setAttribute("visibility", inside ? "visible" : "hidden");
  }

  function start(root) {
    var all = function (selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };
    var data = JSON.parse(root.querySelector("script[data-tlm-data]").textContent);
    var inputs = all("input[data-input]");
    function update() {
      var values = inputs.map(function (input) { return Number(input.value); }), out = {};
      functions[data.kind](data, values, out);
      inputs.forEach(function (input, i) {
        var words = values[i].toFixed(data.inputs[i].decimals);
        input.setAttribute("aria-valuetext", data.inputs[i].label + " = " + words);
        root.querySelector("output[data-value=\"" + input.dataset.input + "\"]").textContent = words;
      });
      all("[data-key]").forEach(function (element) { element.textContent = text(out[element.dataset.key]); });
      all("[data-bar]").forEach(function (element) { bar(element, out[element.dataset.bar]); });
      all("[data-marker]").forEach(function (element) { mark(element, data, out[element.dataset.marker], values[0]); });
    }
    apart(root);
    root.dataset.ready = "yes";
    inputs.forEach(function (input) { input.addEventListener("input", update); });
    update();
  }

  document.querySelectorAll("[data-tlm-slider=\"" + name + "\"]:not([data-ready])").forEach(start);
})
