"""The second part of the C source: each layer forward and backward, and the loss."""

TEXT = r"""
/* ---- layers ---------------------------------------------------------------------------------------------------------- */

/* Correlate `channels` planes of `height` rows with weights packed by tiles of output planes; output row y reads the input
 * rows from y + up on and the columns from `left` on. */
static void correlate(image in, num channels, num height, num up_by, num left, num kh, num kw, const float *w,
                      const float *bias, image out, num planes, num rows, num width, num batch) {
    num run = width * batch, vecs = tiles(run, VL);
    for (num y = 0; y < rows; y++) {
        num from = most(0, -(y + up_by)), to = most(from, least(kh, height - (y + up_by)));
        TILES(v, vecs, NV, v0, nv)
            TILES(o, planes, OT, o0, ot) {
                corr_args q = {.bias = bias ? bias + o0 : 0, .cs = in.cs, .rs = in.rs, .channels = channels,
                               .rows = to - from, .kw = kw, .step = batch, .skip = (kh - (to - from)) * kw,
                               .ocs = out.cs, .n = run - v0 * VL};
                q.w = w + (o0 * channels * kh + from * ot) * kw;
                q.in = in.at + (to > from ? (y + up_by + from) * in.rs : 0) + left * batch + v0 * VL;
                q.out = out.at + o0 * out.cs + y * out.rs + v0 * VL;
                corr_of[ot - 1][nv - 1](&q);
            }
    }
}

static void pack(const layer *l, weights *of) { /* fore: [tile of out][in][ky][kx][out]; back: in and out, and taps, reversed */
    num taps = l->kh * l->kw, at = 0;
    TILES(o, l->out_c, OT, o0, ot)
        for (num c = 0; c < l->in_c; c++)
            for (num k = 0; k < taps; k++)
                for (num i = 0; i < ot; i++) of->fore[at++] = of->w[((o0 + i) * l->in_c + c) * taps + k];
    at = 0;
    TILES(c, l->in_c, OT, c0, ct)
        for (num o = 0; o < l->out_c; o++)
            for (num k = taps - 1; k >= 0; k--)
                for (num i = 0; i < ct; i++) of->back[at++] = of->w[(o * l->in_c + c0 + i) * taps + k];
}

static void conv_forward(const layer *l, weights *of, image in, image out, num batch) {
    pack(l, of);
    correlate(in, l->in_c, l->in_h, -l->pad_h, -l->pad_w, l->kh, l->kw, of->fore, of->b, out, l->out_c, l->out_h,
              l->out_w, batch);
}

static void step_all(float *g, float *w, float *v, num n, const update *how) {
    for (num i = 0; i < n; i += VL) descend(load(g + i), w + i, v + i, how);
}

/* The weight gradient of output channels o0 to o0 + ot: sums over blocks of rows that stay in the cache, tap by tap. */
static void conv_grad_tile(const layer *l, weights *of, image in, image g, num o0, num ot, num batch) {
    num vecs = tiles(l->out_w * batch, VL), per = l->in_c * l->kh * l->kw;
    num block = tiles(l->out_h, tiles(l->out_h * ot * vecs * VL, NEAR));
    memset(of->sums, 0, per * ot * VL * sizeof(float));
    for (num top = 0; top < l->out_h; top += block) {
        float *sums = of->sums;
        for (num c = 0; c < l->in_c; c++)
            for (num ky = 0; ky < l->kh; ky++) {
                num y = most(top, l->pad_h - ky), end = least(least(l->out_h, top + block), l->in_h + l->pad_h - ky);
                TILES(k, l->kw, KT, k0, kt) {
                    grad_args q = {.irs = in.rs, .gcs = g.cs, .grs = g.rs, .rows = end - y, .vecs = vecs, .step = batch};
                    q.sums = sums, sums += ot * kt * VL;
                    if (end <= y) continue;
                    q.g = g.at + o0 * g.cs + y * g.rs;
                    q.in = in.at + c * in.cs + (y + ky - l->pad_h) * in.rs + (k0 - l->pad_w) * batch;
                    conv_grad_of[ot - 1][kt - 1](&q);
                }
            }
    }
    const float *sums = of->sums;
    for (num row = 0; row < l->in_c * l->kh; row++)
        TILES(k, l->kw, KT, k0, kt)
            for (num o = 0; o < ot; o++)
                for (num i = 0; i < kt; i++, sums += VL) of->gw[(o0 + o) * per + row * l->kw + k0 + i] = sum(load(sums));
}

static void conv_backward(const layer *l, weights *of, image in, image g, image gin, int ask, num batch, const update *how) {
    if (ask)
        correlate(g, l->out_c, l->out_h, l->pad_h - l->kh + 1, l->pad_w - l->kw + 1, l->kh, l->kw, of->back, 0, gin, l->in_c,
                  l->in_h, l->in_w, batch);
    TILES(o, l->out_c, GT, o0, ot)
        conv_grad_tile(l, of, in, g, o0, ot, batch);
    float *gb = of->gw + of->size;
    for (num o = 0; o < l->out_c; o++) {
        vec acc = {0};
        for (num y = 0; y < l->out_h; y++)
            for (num v = 0; v < tiles(l->out_w * batch, VL); v++) acc += load(g.at + o * g.cs + y * g.rs + v * VL);
        gb[o] = sum(acc);
    }
    step_all(of->gw, of->w, of->vw, of->size, how);
    step_all(gb, of->b, of->vb, up(l->out_c), how);
}

static void linear_forward(const layer *l, weights *of, image in, image out, num batch) {
    TILES(o, l->out_c, NV, o0, ot)
        TILES(b, batch, OT, b0, bt) {
            flat_args q = {.x = in.at + b0 * in.rs, .xs = in.rs, .w = of->w + o0 * of->row, .ws = of->row, .bias = of->b + o0,
                           .out = out.at + b0 * out.rs + o0, .os = out.rs, .n = of->row};
            dense_of[bt - 1][ot - 1](&q);
        }
}

static void linear_backward(const layer *l, weights *of, image in, image g, image gin, int ask, num batch, const update *how) {
    num vecs = of->row / VL;
    if (ask)
        TILES(v, vecs, NV, v0, nv)
            TILES(b, batch, OT, b0, bt) {
                flat_args q = {.g = g.at + b0 * g.rs, .gs = g.rs, .w = of->w + v0 * VL, .ws = of->row,
                               .out = gin.at + b0 * gin.rs + v0 * VL, .os = gin.rs, .n = l->out_c};
                dense_input_of[bt - 1][nv - 1](&q);
            }
    TILES(o, l->out_c, OT, o0, ot)
        TILES(v, vecs, NV, v0, nv) {
            flat_args q = {.x = in.at + v0 * VL, .xs = in.rs, .g = g.at + o0, .gs = g.rs, .n = batch, .ws = of->row, .how = how,
                           .weight = of->w + o0 * of->row + v0 * VL, .velocity = of->vw + o0 * of->row + v0 * VL};
            dense_grad_of[ot - 1][nv - 1](&q);
        }
    for (num o = 0; o < up(l->out_c); o += VL) {
        vec acc = {0};
        for (num b = 0; b < batch; b++) acc += load(g.at + b * g.rs + o);
        descend(acc, of->b + o, of->vb + o, how);
    }
}

INLINE mask beats(vec later, vec first) { return (later > first) | (later != later); }

static void pool_forward(const layer *l, image in, image out, num batch) {
    num run = l->out_w * batch;
    for (num c = 0; c < l->out_c; c++)
        for (num y = 0; y < l->out_h; y++)
            for (num x = 0; x < l->out_w; x++) /* whole vectors: what is too much, the next column overwrites */
                for (num b = 0; b < batch; b += VL) {
                    const float *p = in.at + c * in.cs + 2 * y * in.rs + 2 * x * batch + b;
                    vec best = load(p), v = load(p + batch);
                    best = choose(beats(v, best), v, best);
                    v = load(p + in.rs), best = choose(beats(v, best), v, best);
                    v = load(p + in.rs + batch), best = choose(beats(v, best), v, best);
                    store_some(out.at + c * out.cs + y * out.rs + x * batch + b, best, run - x * batch - b);
                }
}

static void pool_backward(const layer *l, image in, image g, image gin, num batch) {
    num run = 2 * l->out_w * batch;
    for (num c = 0; c < l->out_c; c++)
        for (num y = 0; y < l->out_h; y++)
            for (num x = 0; x < 2 * l->out_w; x++)
                for (num b = 0; b < batch; b += VL) {
                    const float *p = in.at + c * in.cs + 2 * y * in.rs + x / 2 * 2 * batch + b;
                    vec best = load(p), v = load(p + batch), of = load(g.at + c * g.cs + y * g.rs + x / 2 * batch + b);
                    mask second = beats(v, best), third, fourth;
                    best = choose(second, v, best);
                    v = load(p + in.rs), third = beats(v, best), best = choose(third, v, best);
                    v = load(p + in.rs + batch), fourth = beats(v, best);
                    mask top = ~third & ~fourth & (x % 2 ? second : ~second), low = x % 2 ? fourth : third & ~fourth;
                    float *to = gin.at + c * gin.cs + 2 * y * gin.rs + x * batch + b;
                    store_some(to, (vec)((mask)of & top), run - x * batch - b);
                    store_some(to + gin.rs, (vec)((mask)of & low), run - x * batch - b);
                }
}

static void relu(num planes, num rows, num run, image in, image of, image out) { /* out = in where `of` is above 0 (or NaN) */
    for (num c = 0; c < planes; c++)
        for (num y = 0; y < rows; y++) {
            const float *x = in.at + c * in.cs + y * in.rs, *sign = of.at + c * of.cs + y * of.rs;
            float *to = out.at + c * out.cs + y * out.rs;
            for (num i = 0; i < run; i++) to[i] = sign[i] <= 0.0f ? 0.0f : x[i];
        }
}

static void relu_any(const layer *l, image in, image of, image out, num batch) {
    if (l->in_h)
        relu(l->in_c, l->in_h, l->in_w * batch, in, of, out);
    else
        relu(1, batch, l->in_c, in, of, out);
}

static void flatten(const layer *l, image in, image flat, num batch, int back) {
    for (num b = 0; b < batch; b++)
        for (num c = 0, at = 0; c < l->in_c; c++)
            for (num y = 0; y < l->in_h; y++) {
                float *row = in.at + c * in.cs + y * in.rs + b, *to = flat.at + b * flat.rs;
                if (back)
                    for (num x = 0; x < l->in_w; x++) row[x * batch] = to[at++];
                else
                    for (num x = 0; x < l->in_w; x++) to[at++] = row[x * batch];
            }
}

INLINE void turn(const float *const from[4], float *to, num step) { /* to[i * step + s] = from[s][i], 4 x 4 */
    four v[4];
    for (int s = 0; s < 4; s++) v[s] = *(const four_loose *)from[s];
    for (int i = 0; i < 4; i++) *(four_loose *)(to + i * step) = (four){v[0][i], v[1][i], v[2][i], v[3][i]};
}

static void gather_row(const float *x, const int64_t *picked, num size, num w, float *to, num batch) {
    num b = 0;
    for (; b + 4 <= batch; b += 4) {
        const float *from[4];
        for (int s = 0; s < 4; s++) from[s] = x + picked[b + s] * size;
        num i = 0;
        for (; i + 4 <= w; i += 4) {
            turn(from, to + i * batch + b, batch);
            for (int s = 0; s < 4; s++) from[s] += 4;
        }
        for (; i < w; i++)
            for (int s = 0; s < 4; s++) to[i * batch + b + s] = *from[s]++;
    }
    for (; b < batch; b++)
        for (num i = 0; i < w; i++) to[i * batch + b] = x[picked[b] * size + i];
}

static void gather(const layer *l, const float *x, const int64_t *picked, image out, num batch) {
    num size = l->in_c * most(1, l->in_h * l->in_w);
    if (!l->in_h) {
        for (num b = 0; b < batch; b++) memcpy(out.at + b * out.rs, x + picked[b] * size, size * sizeof *x);
        return;
    }
    for (num c = 0; c < l->in_c; c++)
        for (num y = 0; y < l->in_h; y++, x += l->in_w)
            gather_row(x, picked, size, l->in_w, out.at + c * out.cs + y * out.rs, batch);
}

static void cross_entropy(image logits, const int64_t *y, const int64_t *picked, num classes, image g, num batch) {
    for (num b = 0; b < batch; b++) { /* gradient of the mean over rows: (softmax - one-hot) / rows */
        const float *z = logits.at + b * logits.rs;
        float *to = g.at + b * g.rs, top = z[0], total = 0;
        for (num c = 1; c < classes; c++) top = z[c] > top ? z[c] : top;
        for (num c = 0; c < classes; c++) total += to[c] = expf(z[c] - top);
        for (num c = 0; c < classes; c++) to[c] = (to[c] / total - (c == y[picked[b]])) / (float)batch;
    }
}
"""
