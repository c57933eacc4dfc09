(function (name, apart, marker, make) {
  "use strict";

  function signed(value) {
    var far = Math.abs(value), size = Math.floor(far * 100 + 0.5);
    return (size ? (value < 0 ? "\u2212" : "+") : "") + (far < 1e15 ? (size / 100).toFixed(2) : far.toPrecision(7));
  }

  function start(root) {
    var one = function (selector) { return root.querySelector(selector); };
    var all = function (selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };
    var data = JSON.parse(one("script[data-tlm-data]").textContent), first = data.inputs[0], frame = data.frame;
    var control = one("input[data-input]"), lists = all("select[data-choice]");
    var chosen = function () { return lists.map(function (list) { return Number(list.value); }); };
    var widget = make(data, one, all, chosen, signed);
    var x = function (a) { return frame.left + (a - first.low) / (first.high - first.low) * frame.width; };
    var y = function (value) { return frame.top + widget.below(value) * frame.height; };

    function curves() {
      var columns = [], i, a;
      for (i = 0; i < data.points; i += 1) {
        a = first.low + i * (first.high - first.low) / (data.points - 1);
        columns.push([a, widget.evaluate(a)]);
      }
      widget.redraw(function (key) {
        return "M" + columns.map(function (column) { return x(column[0]).toFixed(1) + " " + y(column[1][key]).toFixed(1); }).join("L");
      });
    }

    function bars(out) {
      var reach = widget.reach(), before = 0;
      var place = function (value) { return 50 + 50 * Math.max(-1, Math.min(1, value / reach)); };
      all("[data-bar]").forEach(function (bar) {
        var key = bar.dataset.bar, from = key === "sum" ? 0 : before, to = from + out[key];
        bar.style.left = place(Math.min(from, to)) + "%";
        bar.style.width = place(Math.max(from, to)) - place(Math.min(from, to)) + "%";
        before = to;
      });
    }

    function update() {
      var strength = Number(control.value), out = widget.evaluate(strength);
      control.setAttribute("aria-valuetext", first.label + " = " + strength.toFixed(first.decimals));
      one("output[data-value]").textContent = strength.toFixed(first.decimals);
      all("[data-key]").forEach(function (element) {
        var key = element.dataset.key;
        if (out[key] === undefined) { return; }
        element.textContent = widget.text(key, out[key]);
        element.dataset.exact = out[key].toPrecision(9);
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

    apart(root);
    root.dataset.ready = "yes";
    control.addEventListener("input", update);
    lists.forEach(function (list) { list.addEventListener("change", function () { curves(); update(); }); });
    curves();
    update();
  }

  document.querySelectorAll("[" + marker + "=\"" + name + "\"]:not([data-ready])").forEach(start);
})
