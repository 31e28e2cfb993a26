"""The last part of the C source: memory, the steps of one client, and the two functions that Python calls."""

TEXT = r"""
/* ---- the client ------------------------------------------------------------------------------------------------------ */

static int sane(const layer *l, num n) {
    if (n < 1 || n > LAYERS || l[n - 1].kind != LINEAR) return 0;
    for (num i = 0; i < n; i++, l++) {
        const int64_t *value = (const int64_t *)l;
        for (int k = 0; k < 11; k++)
            if (value[k] < 0 || value[k] > (1 << 24)) return 0;
        int image_in = l->in_h > 0 && l->in_w > 0, flat_in = !l->in_h && !l->in_w, flat_out = !l->out_h && !l->out_w, ok = 0;
        if (l->kind == CONV)
            ok = image_in && l->kh && l->kw && l->out_h && l->out_w && l->out_h == l->in_h + 2 * l->pad_h - l->kh + 1 &&
                 l->out_w == l->in_w + 2 * l->pad_w - l->kw + 1;
        if (l->kind == POOL)
            ok = image_in && l->out_c == l->in_c && l->out_h && l->out_w && l->out_h == l->in_h / 2 && l->out_w == l->in_w / 2;
        if (l->kind == RELU) ok = (image_in || flat_in) && l->out_c == l->in_c && l->out_h == l->in_h && l->out_w == l->in_w;
        if (l->kind == FLATTEN) ok = image_in && flat_out && l->out_c == l->in_c * l->in_h * l->in_w;
        if (l->kind == LINEAR) ok = flat_in && flat_out;
        if (!ok || !l->in_c || !l->out_c) return 0;
        if (i + 1 < n && (l[1].in_c != l->out_c || l[1].in_h != l->out_h || l[1].in_w != l->out_w)) return 0;
    }
    return 1;
}

static float *take(float *base, num *at, num floats) { /* the next so many floats; with no base the sizes alone are counted */
    float *p = base ? base + *at : 0;
    *at += (floats + 15) / 16 * 16;
    return p;
}

static num place_weights(net *t, float *base) {
    num at = 0;
    t->first = t->n;
    for (num i = t->n - 1; i >= 0; i--) {
        const layer *l = t->layers + i;
        weights *of = t->of + i;
        if (l->kind != CONV && l->kind != LINEAR) continue;
        num size = l->out_c * l->in_c * l->kh * l->kw, outs = up(l->out_c);
        t->first = i;
        of->row = l->kind == LINEAR ? up(l->in_c) : size;
        of->size = l->kind == LINEAR ? l->out_c * of->row : up(size);
        of->w = take(base, &at, of->size), of->vw = take(base, &at, of->size);
        of->b = take(base, &at, outs), of->vb = take(base, &at, outs);
        if (l->kind == CONV) {
            of->gw = take(base, &at, of->size + outs);
            of->fore = take(base, &at, size), of->back = take(base, &at, size);
            of->sums = take(base, &at, GT * l->in_c * l->kh * l->kw * VL);
        }
    }
    return at;
}

static image place(num c, num h, num w, num margin, num batch, float *base, num *at) {
    num left = h ? up(margin * batch) : 0; /* column 0 begins a vector */
    num rs = h ? left + up((w + margin) * batch) : up(c), rows = h ? c * h : batch;
    float *p = take(base, at, rows * rs + 2 * VL); /* the last row, too, is read in whole vectors */
    return (image){p ? p + left : 0, h * rs, rs};
}

static num place_images(net *t, num batch, float *base) {
    num at = 0;
    for (num i = 0; i <= t->n; i++) {
        const layer *next = t->layers + least(i, t->n - 1), *before = t->layers + i - 1;
        num c = i < t->n ? next->in_c : next->out_c, h = i < t->n ? next->in_h : 0, w = i < t->n ? next->in_w : 0;
        t->a[i] = place(c, h, w, i < t->n && next->kind == CONV ? next->pad_w : 0, batch, base, &at);
        if (i > t->first) t->g[i] = place(c, h, w, before->kind == CONV ? before->kw - 1 : 0, batch, base, &at);
    }
    t->batch = batch;
    if (base) memset(base, 0, at * sizeof *base);
    return at;
}

static void copy_weights(const net *t, float *const *params, int out) { /* weight and bias by layer, in order */
    for (num i = 0; i < t->n; i++) {
        const layer *l = t->layers + i;
        const weights *of = t->of + i;
        if (l->kind != CONV && l->kind != LINEAR) continue;
        num rows = l->kind == LINEAR ? l->out_c : 1, row = l->kind == LINEAR ? l->in_c : of->row;
        float *w = *params++, *b = *params++;
        if (out) {
            for (num r = 0; r < rows; r++) memcpy(w + r * row, of->w + r * of->row, row * sizeof *w);
            memcpy(b, of->b, l->out_c * sizeof *b);
            continue;
        }
        for (num r = 0; r < rows; r++) {
            memcpy(of->w + r * of->row, w + r * row, row * sizeof *w);
            memset(of->w + r * of->row + row, 0, (of->size / rows - row) * sizeof *w);
        }
        memset(of->b, 0, up(l->out_c) * sizeof *b);
        memcpy(of->b, b, l->out_c * sizeof *b);
        if (of->gw) memset(of->gw, 0, (of->size + up(l->out_c)) * sizeof *b);
    }
}

static void step(net *t, const float *x, const int64_t *y, const int64_t *picked, const update *how) {
    num batch = t->batch, n = t->n;
    gather(t->layers, x, picked, t->a[0], batch);
    for (num i = 0; i < n; i++) {
        const layer *l = t->layers + i;
        image in = t->a[i], out = t->a[i + 1];
        if (l->kind == CONV) conv_forward(l, t->of + i, in, out, batch);
        if (l->kind == POOL) pool_forward(l, in, out, batch);
        if (l->kind == RELU) relu_any(l, in, in, out, batch);
        if (l->kind == FLATTEN) flatten(l, in, out, batch, 0);
        if (l->kind == LINEAR) linear_forward(l, t->of + i, in, out, batch);
    }
    cross_entropy(t->a[n], y, picked, t->layers[n - 1].out_c, t->g[n], batch);
    for (num i = n - 1; i >= t->first; i--) {
        const layer *l = t->layers + i;
        image in = t->a[i], g = t->g[i + 1], gin = t->g[i];
        if (l->kind == CONV) conv_backward(l, t->of + i, in, g, gin, i > t->first, batch, how);
        if (l->kind == POOL) pool_backward(l, in, g, gin, batch);
        if (l->kind == RELU) relu_any(l, g, t->a[i + 1], gin, batch);
        if (l->kind == FLATTEN) flatten(l, gin, g, batch, 1);
        if (l->kind == LINEAR) linear_backward(l, t->of + i, in, g, gin, i > t->first, batch, how);
    }
}

/* Bytes of scratch for batches of up to `batch` rows; -1 where the layers are no network. */
int64_t fedkd_scratch(const layer *layers, int64_t n, int64_t batch) {
    if (!sane(layers, n) || batch < 1) return -1;
    net t = {.layers = layers, .n = n};
    num floats = place_weights(&t, 0);
    return (floats + place_images(&t, batch, 0) + 2 * batch + 64) * (int64_t)sizeof(float);
}

/* Train: weight and bias of each layer in `start`, and as trained in `end`; x [rows, ...], y [rows] in 0..classes-1;
 * order [passes, columns] of rows, anything below 0 fills up. Returns 0, or what is wrong: 1 the layers, 2 the scratch
 * (64-byte aligned), 3 a row or label out of range. */
int fedkd_train(const layer *layers, int64_t n, const float *const *start, float *const *end, const float *x, const int64_t *y,
                int64_t rows, const int64_t *order, int64_t passes, int64_t columns, int64_t batch, float rate, float momentum,
                float decay, void *scratch, int64_t bytes) {
    num need = fedkd_scratch(layers, n, batch);
    if (need < 0) return 1;
    if (bytes < need || (uintptr_t)scratch % 64) return 2;
    for (num i = 0; i < passes * columns; i++)
        if (order[i] >= rows || (order[i] >= 0 && (y[order[i]] < 0 || y[order[i]] >= layers[n - 1].out_c))) return 3;
    net t = {.layers = layers, .n = n};
    num used = place_weights(&t, 0);
    int64_t *picked = scratch;
    float *base = (float *)scratch + (2 * batch + 15) / 16 * 16;
    place_weights(&t, base);
    copy_weights(&t, (float *const *)start, 0);
    update how = {rate, momentum, decay, 1};
    for (num p = 0; p < passes; p++)
        for (num i = 0; i < columns;) {
            num b = 0;
            for (; i < columns && b < batch; i++)
                if (order[p * columns + i] >= 0) picked[b++] = order[p * columns + i];
            if (!b) continue;
            if (b != t.batch) place_images(&t, b, base + used);
            step(&t, x, y, picked, &how);
            how.first = 0;
        }
    copy_weights(&t, end, 1);
    return 0;
}
"""
