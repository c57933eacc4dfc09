(function (name, apart) {
  "use strict";

  function start(root) {
    var one = function (selector) { return root.querySelector(selector); };
    var all = function (selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };
    var data = JSON.parse(one("script[data-tlm-data]").textContent), first = data.inputs[0], frame = data.frame;
    var control = one("input[data-input]"), lists = all("select[data-choice]");
    var x = function (a) { return frame.left + (a - data.low) / (data.high - data.low) * frame.width; };
    var y = function (power) { return frame.top + (data.top - power) / (data.top - data.bottom) * frame.height; };

    // height, place and squared width of the hill and of the hack, smoothed
    function bumps(sigma) {
      var numbers = lists.map(function (list, i) { return data.choices[i].numbers[Number(list.value)]; }), n = numbers[0], k = numbers[1];
      var wide = data.hill_width * data.hill_width + sigma * sigma, narrow = data.width * data.width + sigma * sigma;
      var keepsWide = data.hill_width / Math.sqrt(wide), keepsNarrow = data.width / Math.sqrt(narrow);
      return [[Math.pow(keepsWide, n), 0, wide],
              [data.height * Math.pow(keepsWide, n - k) * Math.pow(keepsNarrow, k), data.distance, narrow]];
    }

    function part(bump, a) { return bump[0] * Math.exp(-(a - bump[1]) * (a - bump[1]) / (2 * bump[2])); }
    function height(two, a) { return part(two[0], a) + part(two[1], a); }
    function slope(two, a) {
      return two.reduce(function (sum, bump) { return sum + part(bump, a) * (bump[1] - a) / bump[2]; }, 0);
    }
    function power(value) { return Math.max(data.bottom, Math.log10(Math.max(value, 1e-300))); }

    function end(two) {
      var step = data.distance / data.scan, i = 1, low, high, middle, turn;
      while (i < data.scan && slope(two, i * step) > 0) { i += 1; }
      low = (i - 1) * step;
      high = i * step;
      for (turn = 0; turn < data.halvings; turn += 1) {
        middle = (low + high) / 2;
        if (slope(two, middle) > 0) { low = middle; } else { high = middle; }
      }
      return low;
    }

    function curve(two) {
      var places = [], i, a;
      for (i = 0; i < data.points; i += 1) {
        a = data.low + i * (data.high - data.low) / (data.points - 1);
        places.push(x(a).toFixed(1) + " " + y(power(height(two, a))).toFixed(1));
      }
      return "M" + places.join("L");
    }

    function update() {
      var sigma = Number(control.value), seen = bumps(sigma), real = bumps(0), stop = end(seen), share = stop / data.distance;
      var out = { hill: seen[0][0], hack: seen[1][0], end: stop, paid: height(real, stop) };
      control.setAttribute("aria-valuetext", first.label + " = " + sigma.toFixed(first.decimals));
      one("output[data-value]").textContent = sigma.toFixed(first.decimals);
      all("[data-key]").forEach(function (cell) {
        var key = cell.dataset.key, value = out[key];
        if (key === "where") {
          cell.textContent = share < 0.25 ? "on the hill" : share > 0.75 ? "in the hack" : "between the two";
          return;
        }
        cell.textContent = key === "end" ? (Math.floor(value * 1000 + 0.5) / 1000).toFixed(3) : value.toPrecision(4);
        cell.dataset.exact = value.toPrecision(9);
      });
      one("[data-curve=reward]").setAttribute("d", curve(real));
      one("[data-curve=seen]").setAttribute("d", curve(seen));
      one("[data-marker]").setAttribute("cx", x(stop));
      one("[data-marker]").setAttribute("cy", y(power(height(seen, stop))));
    }

    apart(root);
    root.dataset.ready = "yes";
    control.addEventListener("input", update);
    lists.forEach(function (list) { list.addEventListener("change", update); });
    update();
  }

  document.querySelectorAll("[data-tlm-landscape=\"" + name + "\"]:not([data-ready])").forEach(start);
})
