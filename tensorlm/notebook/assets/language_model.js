(function (name, apart, engine) {
  "use strict";
  var GRID = 400, CHECK = 1e-6, WAIT = 200;

  function start(root) {
    var one = function (key) { return root.querySelector("[data-" + key + "]"); };
    var data = JSON.parse(root.querySelector("script[data-tlm-data]").textContent), first = data.inputs[0];
    var control = one("input"), model = null, about = null, response = null, marks = [], timer = 0, frame = 0, writing = 0, checking = 0;
    var value = function (key) { return one(key).value; };
    var chosen = function () { return data.models[Number(value("model"))]; };
    var alpha = function () { return Number(control.value); };

    function say(key, words) { one(key).textContent = words; }

    // What is added: a row for a pair of words, before a block, at the last place or at all.
    function direction() {
      var preset = chosen().presets[Number(value("pair"))], parts;
      if (preset && preset.vector) { return Float64Array.from(preset.vector); }
      parts = ["from", "to"].map(function (key) {
        var tokens = model.tokens.encode(value(key)), total = new Float64Array(model.page.width);
        tokens.forEach(function (token) {
          var entered = model.enter(token, null).x;
          entered.forEach(function (each, i) { total[i] += each / tokens.length; });
        });
        return tokens.length ? total : null;
      });
      return parts[0] && parts[1] ? parts[1].map(function (each, i) { return each - parts[0][i]; }) : null;
    }

    function read() {
      var unknown = ["prompt", "from", "to"].reduce(function (all, key) { return all.concat(model.tokens.unknown(value(key))); }, []);
      var tokens = model.tokens.encode(value("prompt")), vector = direction(), everywhere = value("place") === "all";
      tokens = tokens.slice(-model.page.context);
      if (unknown.length) { say("status", "Not among its words, left out: " + unknown.join(", ") + "."); }
      if (!tokens.length) { say("status", "The text is empty: write something that the model can go on from."); return null; }
      if (!vector) { say("status", "A vector takes a word on both sides."); vector = new Float64Array(model.page.width); }
      if (!unknown.length && vector.some(Boolean)) { say("status", ""); }
      return { tokens: tokens, vector: vector, layer: Number(value("layer")), at: function (position) { return everywhere || position === tokens.length - 1; } };
    }

    function steering(strength) {
      var scaled = about.vector.map(function (each) { return strength * each; });
      return function (layer, position) { return strength && layer === about.layer && about.at(position) ? scaled : null; };
    }

    function running(strength) { return model.logits(about.tokens, steering(strength)); }

    function predict() {
      var low = first.low, high = first.high;
      response = about && model.page.polynomial ? model.response(about.tokens, about.vector, about.layer, about.at, Math.max(-low, high)) : null;
      marks = response && about.vector.some(Boolean) ? engine.tippingPoints(response, low, high, GRID) : [];
      strip(low, high);
      list();
    }

    function piece(token) { return engine.shown(model.tokens.decode([token])); }

    function strip(low, high) {
      var box = one("leads"), ends = [low].concat(marks.map(function (mark) { return mark.strength; }), [high]);
      box.textContent = "";
      ends.slice(1).forEach(function (end, i) {
        var part = document.createElement("span"), leads = marks.length ? (i ? marks[i - 1].after : marks[0].before) : response && engine.leader(response.rows[0]);
        part.style.width = 100 * (end - ends[i]) / (high - low) + "%";
        part.textContent = response ? piece(leads) : "";
        part.title = part.textContent;
        box.appendChild(part);
      });
    }

    function list() {
      var box = one("marks");
      box.textContent = "";
      marks.forEach(function (mark) {
        var item = document.createElement("li"), button = document.createElement("button");
        button.type = "button";
        button.textContent = mark.strength.toFixed(4) + ": " + piece(mark.before) + " \u2192 " + piece(mark.after);
        button.dataset.mark = mark.strength.toPrecision(12);
        button.dataset.before = mark.before;
        button.dataset.after = mark.after;
        button.addEventListener("click", function () {
          control.value = mark.strength + (alpha() < mark.strength ? 1 : -1) * first.step;
          update();
        });
        item.appendChild(button);
        box.appendChild(item);
      });
      window.clearTimeout(checking);
      say("checked", "");
      root.dataset.agreed = "";
      if (!response) { say("predicted", model.page.polynomial ? "" : "This model divides by norms of each token: no polynomial says beforehand where it turns over."); return; }
      say("predicted", "Predicted by the polynomial, of degree " + (response.rows.length - 1) + ": the most likely piece changes " + marks.length +
        (marks.length === 1 ? " time" : " times") + " between " + first.low + " and " + first.high + ".");
      compare(0, 0);
    }

    // The running model a millionth below and above each mark, one mark at a time, so that the page stays quick.
    function compare(index, agreed) {
      if (index === marks.length) {
        say("checked", marks.length ? "Run a millionth below and above each mark, the model turned over at " + agreed + " of " + marks.length + "." : "");
        root.dataset.agreed = agreed;
        return;
      }
      checking = window.setTimeout(function () {
        var mark = marks[index], below = engine.leader(running(mark.strength - CHECK)), above = engine.leader(running(mark.strength + CHECK));
        compare(index + 1, agreed + (below === mark.before && above === mark.after));
      }, 0);
    }

    function bars(logits, plain) {
      var now = engine.probabilities(logits, 1, 0), before = engine.probabilities(plain, 1, 0);
      var order = engine.ordered(now);
      var reach = Math.max(data.reach, now[order[0]], before[engine.leader(before)]);
      Array.prototype.forEach.call(root.querySelectorAll("[data-next]"), function (row, place) {
        var token = order[place], bar = row.querySelector("i");
        row.dataset.token = token;
        row.querySelector("th").textContent = piece(token);
        bar.style.width = 100 * now[token] / reach + "%";
        row.querySelector("b").style.left = 100 * before[token] / reach + "%";
        row.querySelector("[data-now]").textContent = now[token].toFixed(3);
        row.querySelector("[data-now]").dataset.exact = now[token].toPrecision(9);
        row.querySelector("[data-before]").textContent = before[token].toFixed(3);
      });
    }

    // Text after the prompt, from a seed; `state` goes on where it stopped.
    function writer(strength) {
      var state = model.state(), add = steering(strength), logits = model.logits(about.tokens, add, state), random = engine.randomOf(Number(value("seed")) || 0), said = [];
      return {
        more: function (count) {
          while (count > 0) {
            said.push(engine.sample(logits, Number(value("temperature")), Number(value("top")), random));
            logits = model.step(said[said.length - 1], state, add);
            count -= 1;
          }
          return model.tokens.apart + model.tokens.decode(said);
        }
      };
    }

    function update() {
      var strength = alpha(), logits;
      window.clearTimeout(writing);
      control.setAttribute("aria-valuetext", first.label + " = " + strength.toFixed(first.decimals));
      root.querySelector("output[data-value]").textContent = strength.toFixed(first.decimals);
      if (!about) { return; }
      logits = running(strength);
      root.dataset.leads = engine.leader(logits);
      bars(logits, running(0));
      say("text", writer(strength).more(data.count));
      say("plain", writer(0).more(data.count));
      one("write").textContent = "Write on";
      root.dataset.updated = Number(root.dataset.updated || 0) + 1;
    }

    function again() {
      about = read();
      predict();
      update();
    }

    function later() { window.clearTimeout(timer); timer = window.setTimeout(again, WAIT); }

    function write() {
      var pen, begun, count = 0;
      if (one("write").textContent === "Stop") { window.clearTimeout(writing); one("write").textContent = "Write on"; return; }
      if (!about) { return; }
      pen = writer(alpha());
      begun = performance.now();
      one("write").textContent = "Stop";
      (function go() {
        var until = performance.now() + 30;
        do { say("text", pen.more(1)); count += 1; } while (performance.now() < until && count < data.most);
        root.dataset.pace = (1000 * count / (performance.now() - begun)).toFixed(0);
        say("pace", count + " pieces, " + root.dataset.pace + " a second");
        if (count < data.most) { writing = window.setTimeout(go, 0); } else { one("write").textContent = "Write on"; }
      }());
    }

    function choose() {
      var wanted = chosen();
      say("status", "Fetching the weights \u2026");
      engine.open(wanted, function (found) {
        if (chosen() !== wanted) { return; }
        model = found;
        root.tlm = { model: model, engine: engine };
        one("prompt").value = wanted.prompt;
        fill("pair", wanted.presets.map(function (preset) { return preset.label; }).concat(["your own"]));
        fill("layer", model.page.blocks.map(function (block, i) { return "block " + i; }).concat(["the head"]));
        one("layer").value = data.layer;
        pair();
        again();
        root.dataset.ready = "yes";
      }, function (words) { say("status", words); });
    }

    function fill(key, options) {
      one(key).textContent = "";
      options.forEach(function (words, i) {
        var option = document.createElement("option");
        option.value = i;
        option.textContent = words;
        one(key).appendChild(option);
      });
    }

    function pair() {
      var preset = chosen().presets[Number(value("pair"))];
      one("own").hidden = Boolean(preset);
      if (preset && preset.from) { one("from").value = preset.from; one("to").value = preset.to; }
    }

    apart(root);
    one("model").addEventListener("change", choose);
    control.addEventListener("input", function () {
      window.cancelAnimationFrame(frame);
      frame = window.requestAnimationFrame(update);
    });
    ["prompt", "from", "to"].forEach(function (key) { one(key).addEventListener("input", later); });
    one("pair").addEventListener("change", function () { pair(); again(); });
    ["layer", "place"].forEach(function (key) { one(key).addEventListener("change", again); });
    ["temperature", "top", "seed"].forEach(function (key) { one(key).addEventListener("input", function () { if (about) { update(); } }); });
    one("write").addEventListener("click", write);
    choose();
  }

  document.querySelectorAll("[data-tlm-speaks=\"" + name + "\"]:not([data-begun])").forEach(function (root) {
    root.dataset.begun = "yes";
    start(root);
  });
})
