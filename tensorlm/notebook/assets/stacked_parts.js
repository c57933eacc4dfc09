function (data, one, all, chosen, signed) {
  "use strict";
  var last = function () { return chosen()[chosen().length - 1]; };
  var scale = function () { return data.scales[last()]; };

  return {
    evaluate: function (strength) {
      var row = chosen().reduce(function (values, option) { return values[option]; }, data.values), out = { sum: 0 };
      data.parts.forEach(function (part, i) {
        out["p" + (i + 1)] = row[i] * Math.pow(strength, part.power);
        out.sum += out["p" + (i + 1)];
      });
      return out;
    },
    below: function (value) { return (scale().max - value) / (scale().max - scale().min); },
    reach: function () { return scale().reach; },
    text: function (key, value) { return signed(value); },
    redraw: function (path) {
      all("[data-curve]").forEach(function (curve) { curve.setAttribute("d", path(curve.dataset.curve)); });
      all("[data-axes]").forEach(function (axes) {
        if (Number(axes.dataset.axes) === last()) { axes.removeAttribute("display"); } else { axes.setAttribute("display", "none"); }
      });
    }
  };
}
