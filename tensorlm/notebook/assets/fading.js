(function (name, apart, engine) {
  "use strict";

  function start(root) {
    var one = function (key) { return root.querySelector("[data-" + key + "]"); };
    var data = JSON.parse(root.querySelector("script[data-tlm-data]").textContent), control = one("input"), button = one("play"), models = [];
    var shown = root.querySelector("output[data-value]"), calm = window.matchMedia("(prefers-reduced-motion: reduce)");
    var frame = 0, place = 0, last = null;

    // The size that each token has behind the norm before the last block: (r / c)^a, from what the running model sends there.
    function sizes(model, tokens) {
      var state = model.state(), before = model.page.blocks.length - 1, site = model.page.blocks[before].attention_site, found = [];
      tokens.forEach(function (token) {
        model.step(token, state, null, function (layer, x) {
          var squares = 0;
          if (layer !== before) { return; }
          x.forEach(function (each) { squares += each * each; });
          found.push(Math.pow(Math.sqrt(squares / x.length) / Math.exp(site.log[0]), model.share));
        });
      });
      return found;
    }

    function showSizes(model, tokens, side) {
      var found = sizes(model, tokens), rows = root.querySelectorAll("[data-size='" + side + "']"), first = Math.max(0, tokens.length - rows.length);
      Array.prototype.forEach.call(rows, function (row, number) {
        row.hidden = first + number >= tokens.length;
        if (row.hidden) { return; }
        row.querySelector("th").textContent = engine.shown(model.tokens.decode([tokens[first + number]]));
        row.querySelector("i").style.width = Math.min(100, 100 * found[first + number] / data.reach) + "%";
        row.querySelector("[data-now]").textContent = found[first + number].toFixed(2);
        row.querySelector("[data-now]").dataset.exact = found[first + number].toPrecision(9);
      });
    }

    function update() {
      var share = Number(control.value), text = one("prompt").value, tokens;
      control.setAttribute("aria-valuetext", data.inputs[0].label + " = " + share.toFixed(2));
      shown.textContent = share.toFixed(2);
      if (models.length < 2) { return; }
      tokens = models[0].tokens.encode(text).slice(-models[0].page.context);
      one("status").textContent = tokens.length ? "" : "Write some words of the toy language.";
      if (!tokens.length) { return; }
      models.forEach(function (model, number) {
        model.share = share;
        var chances = engine.probabilities(model.logits(tokens), 1, 0), order = engine.ordered(chances);
        Array.prototype.forEach.call(root.querySelectorAll("[data-of='" + number + "']"), function (row, place) {
          row.querySelector("th").textContent = engine.shown(model.tokens.decode([order[place]]));
          row.querySelector("i").style.width = 100 * chances[order[place]] + "%";
          row.querySelector("[data-now]").textContent = chances[order[place]].toFixed(3);
          row.querySelector("[data-now]").dataset.exact = chances[order[place]].toPrecision(9);
        });
        showSizes(model, tokens, number);
      });
      root.dataset.updated = Number(root.dataset.updated || 0) + 1;
    }

    // The animation: only when asked for, once from 0 to 1. Who asked for less motion gets one still step at each press.
    function name() {
      button.textContent = frame ? "Pause" : calm.matches ? "Next step" : "Play: fade the norms";
      shown.setAttribute("aria-live", frame ? "off" : "polite");
    }

    function pause() { window.cancelAnimationFrame(frame); frame = 0; last = null; name(); }

    function go(share) { control.value = share; update(); }

    function tick(now) {
      place = Math.min(1, place + (last === null ? 0 : Math.min(now - last, 100) / (1000 * data.seconds)));
      last = now;
      go(place);
      if (place < 1) { frame = window.requestAnimationFrame(tick); } else { pause(); }
    }

    function press() {
      if (frame) { pause(); return; }
      place = Number(control.value) < 1 ? Number(control.value) : 0;
      if (calm.matches) { go(Number(control.value) < 1 ? Math.min(1, place + data.step) : 0); return; }
      frame = window.requestAnimationFrame(tick);
      name();
    }

    function next() {
      if (models.length === data.models.length) { root.dataset.ready = "yes"; button.hidden = false; name(); update(); return; }
      engine.open(data.models[models.length], function (model) { models.push(model); next(); }, function (words) { one("status").textContent = words; });
    }

    apart(root);
    control.addEventListener("input", function () { pause(); update(); });
    button.addEventListener("click", press);
    calm.addEventListener("change", pause);
    one("prompt").addEventListener("input", update);
    next();
  }

  document.querySelectorAll("[data-tlm-fades=\"" + name + "\"]:not([data-begun])").forEach(function (root) {
    root.dataset.begun = "yes";
    start(root);
  });
})
