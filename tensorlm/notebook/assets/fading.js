(function (name, apart, engine) {
  "use strict";

  function start(root) {
    var one = function (key) { return root.querySelector("[data-" + key + "]"); };
    var data = JSON.parse(root.querySelector("script[data-tlm-data]").textContent), control = one("input"), models = [];

    function ratios(model, tokens) {
      var state = model.state(), found = [];
      tokens.forEach(function (token, i) {
        model.step(token, state, null, function (layer, x) {
          var site = layer < model.page.blocks.length && (layer ? model.page.blocks[layer].attention_site : null), squares = 0;
          if (!site || i < tokens.length - 1) { return; }
          x.forEach(function (each) { squares += each * each; });
          found.push(Math.sqrt(squares / x.length) / Math.exp(site.log[0]));
        });
      });
      return found;
    }

    function update() {
      var share = Number(control.value), text = one("prompt").value, tokens;
      control.setAttribute("aria-valuetext", data.inputs[0].label + " = " + share.toFixed(2));
      root.querySelector("output[data-value]").textContent = share.toFixed(2);
      if (models.length < 2) { return; }
      tokens = models[0].tokens.encode(text).slice(-models[0].page.context);
      one("status").textContent = tokens.length ? "" : "Write some words of the toy language.";
      if (!tokens.length) { return; }
      models[1].share = share;
      models.forEach(function (model, number) {
        var chances = engine.probabilities(model.logits(tokens), 1, 0), order = engine.ordered(chances);
        Array.prototype.forEach.call(root.querySelectorAll("[data-of='" + number + "']"), function (row, place) {
          row.querySelector("th").textContent = engine.shown(model.tokens.decode([order[place]]));
          row.querySelector("i").style.width = 100 * chances[order[place]] + "%";
          row.querySelector("[data-now]").textContent = chances[order[place]].toFixed(3);
          row.querySelector("[data-now]").dataset.exact = chances[order[place]].toPrecision(9);
        });
      });
      one("ratio").textContent = ratios(models[1], tokens).map(function (each) { return each.toFixed(3); }).join(", ");
      root.dataset.updated = Number(root.dataset.updated || 0) + 1;
    }

    function next() {
      if (models.length === data.models.length) { root.dataset.ready = "yes"; update(); return; }
      engine.open(data.models[models.length], function (model) { models.push(model); next(); }, function (words) { one("status").textContent = words; });
    }

    apart(root);
    control.addEventListener("input", update);
    one("prompt").addEventListener("input", update);
    next();
  }

  document.querySelectorAll("[data-tlm-fades=\"" + name + "\"]:not([data-begun])").forEach(function (root) {
    root.dataset.begun = "yes";
    start(root);
  });
})
