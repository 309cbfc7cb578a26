#!/usr/bin/env python3
"""Writes a small language model as a GGUF file: llama architecture, seeded random weights, a tokenizer of its own.

Build machines have no model weights in reach. For the engine a random model is as much work as a trained one, and for
the tests it is better: every run, on any machine, gives the same file. Only Python's standard library is used.

    mkgguf.py OUT [--type f16|q8_0|q4_0|q4_K] [--seed N] [--embedding 256] [--heads 4] [--kv-heads 2] [--layers 3]
              [--feed-forward 512]

The formats follow the public description of GGUF (version 3) and of ggml's block formats: q8_0 and q4_0 hold 32 values
under one f16 scale; q4_K holds 256 under two f16 scales and eight 6-bit scale/minimum pairs.
"""
import argparse
import array
import collections
import random
import struct
import sys

VOCABULARY = 512

# What the tokenizer's merges are learned from.
SENTENCES = """
a graphics card is shared by many programs on one machine and each of them believes that it is alone
the broker admits the programs one after another and gives each a worker that holds the card for it
every call that a program makes travels through shared memory to the worker and is carried out there in order
when a program ends or is killed the memory that it held is free again within a second and no other program notices
the scheduler hands out the time of the card by weight so that two programs of equal weight get equal time
a model reads the words of a question and answers one token at a time until the answer is complete
the cat sat on the mat and the dog lay by the fire while the rain fell on the roof of the old house by the sea
once upon a time there was a small machine that wanted to know the name of every star in the night sky
what is the capital of the country where the river meets the mountains and the wind comes from the north
"""

# GGUF value types.
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9

# Token types of the tokenizer.
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

TENSOR_ALIGNMENT = 32


def learn_pieces(text, count):
    """`count` pieces by byte pair encoding: the most frequent neighbours join, again and again."""
    words = collections.Counter("▁" + word for word in text.split())
    split = {word: list(word) for word in words}
    pieces = []
    while len(pieces) < count:
        pairs = collections.Counter()
        for word, times in words.items():
            for pair in zip(split[word], split[word][1:]):
                pairs[pair] += times
        if not pairs:
            raise SystemExit("the text is too short for so many pieces")
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        joined = best[0] + best[1]
        if joined not in pieces:
            pieces.append(joined)
        for word, parts in split.items():
            i = 0
            while i + 1 < len(parts):
                if (parts[i], parts[i + 1]) == best:
                    parts[i:i + 2] = [joined]
                i += 1
    return pieces


def make_vocabulary():
    """[(text, type, score)]: control tokens, all 256 bytes, the printable characters, then learned pieces."""
    vocabulary = [("<unk>", UNKNOWN, 0.0), ("<s>", CONTROL, 0.0), ("</s>", CONTROL, 0.0)]
    vocabulary += [(f"<0x{byte:02X}>", BYTE, 0.0) for byte in range(256)]
    characters = ["▁"] + [chr(code) for code in range(33, 127)]
    pieces = learn_pieces(SENTENCES, VOCABULARY - len(vocabulary) - len(characters))
    # The tokenizer joins the pair of highest score first: earlier merges score higher, single characters lowest.
    vocabulary += [(piece, NORMAL, -float(rank)) for rank, piece in enumerate(pieces)]
    vocabulary += [(character, NORMAL, -1000.0 - rank) for rank, character in enumerate(characters)]
    return vocabulary


def f32(values):
    return struct.pack(f"<{len(values)}f", *values)


def f16(values):
    return struct.pack(f"<{len(values)}e", *values)


def to_f16(value):
    """The value after rounding to half precision, as the reader will see it."""
    return struct.unpack("<e", struct.pack("<e", value))[0]


def clamp(value, low, high):
    return low if value < low else high if value > high else value


def q8_0(values):
    out = bytearray()
    for start in range(0, len(values), 32):
        block = values[start:start + 32]
        scale = to_f16(max(map(abs, block)) / 127.0)
        inverse = 1.0 / scale if scale else 0.0
        out += struct.pack("<e32b", scale, *(clamp(round(v * inverse), -128, 127) for v in block))
    return bytes(out)


def q4_0(values):
    out = bytearray()
    for start in range(0, len(values), 32):
        block = values[start:start + 32]
        scale = to_f16(max(block, key=abs) / -8.0)  # the value farthest from zero becomes -8 exactly
        inverse = 1.0 / scale if scale else 0.0
        levels = [clamp(round(v * inverse) + 8, 0, 15) for v in block]
        out += struct.pack("<e", scale) + bytes(levels[i] | levels[i + 16] << 4 for i in range(16))
    return bytes(out)


def q4_k(values):
    """value = scale * s * level - minimum * m: f16 scale and minimum per 256, six-bit s and m and four-bit levels per 32."""
    out = bytearray()
    for start in range(0, len(values), 256):
        groups = [values[start + i:start + i + 32] for i in range(0, 256, 32)]
        minimums = [max(0.0, -min(group)) for group in groups]
        steps = [(max(group) + minimum) / 15.0 for group, minimum in zip(groups, minimums)]
        scale, minimum = to_f16(max(steps) / 63.0), to_f16(max(minimums) / 63.0)
        s = [clamp(round(step / scale), 0, 63) if scale else 0 for step in steps]
        m = [clamp(round(low / minimum), 0, 63) if minimum else 0 for low in minimums]
        levels = []
        for group, group_s, group_m in zip(groups, s, m):
            step, low = scale * group_s, minimum * group_m
            inverse = 1.0 / step if step else 0.0
            levels.append([clamp(round((v + low) * inverse), 0, 15) for v in group])
        packed = [s[i] | s[i + 4] >> 4 << 6 for i in range(4)]
        packed += [m[i] | m[i + 4] >> 4 << 6 for i in range(4)]
        packed += [s[i] & 15 | (m[i] & 15) << 4 for i in range(4, 8)]
        out += struct.pack("<ee", scale, minimum) + bytes(packed)
        for pair in range(0, 8, 2):
            out += bytes(low | high << 4 for low, high in zip(levels[pair], levels[pair + 1]))
    return bytes(out)


# name: (ggml type, general.file_type, encoder)
FORMATS = {"f32": (0, 0, f32), "f16": (1, 1, f16), "q4_0": (2, 2, q4_0), "q8_0": (8, 7, q8_0), "q4_K": (12, 15, q4_k)}


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


SCALARS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<B"}


def value(kind, content):
    return string(content) if kind == STRING else struct.pack(SCALARS[kind], content)


def entry(key, kind, content):
    return string(key) + struct.pack("<I", kind) + value(kind, content)


def list_entry(key, kind, contents):
    head = string(key) + struct.pack("<IIQ", ARRAY, kind, len(contents))
    return head + b"".join(value(kind, content) for content in contents)


def metadata(options):
    vocabulary = make_vocabulary()
    texts, types, scores = zip(*vocabulary)
    return [
        entry("general.architecture", STRING, "llama"),
        entry("general.name", STRING, f"vgpud test model {options.type} {options.seed}"),
        entry("general.alignment", UINT32, TENSOR_ALIGNMENT),
        entry("general.file_type", UINT32, FORMATS[options.type][1]),
        entry("llama.context_length", UINT32, 4096),
        entry("llama.embedding_length", UINT32, options.embedding),
        entry("llama.block_count", UINT32, options.layers),
        entry("llama.feed_forward_length", UINT32, options.feed_forward),
        entry("llama.attention.head_count", UINT32, options.heads),
        entry("llama.attention.head_count_kv", UINT32, options.kv_heads),
        entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        entry("llama.rope.dimension_count", UINT32, options.embedding // options.heads),
        entry("llama.rope.freq_base", FLOAT32, 10000.0),
        entry("llama.vocab_size", UINT32, len(vocabulary)),
        entry("tokenizer.ggml.model", STRING, "llama"),
        list_entry("tokenizer.ggml.tokens", STRING, texts),
        list_entry("tokenizer.ggml.scores", FLOAT32, scores),
        list_entry("tokenizer.ggml.token_type", INT32, types),
        entry("tokenizer.ggml.bos_token_id", UINT32, 1),
        entry("tokenizer.ggml.eos_token_id", UINT32, 2),
        entry("tokenizer.ggml.unknown_token_id", UINT32, 0),
        entry("tokenizer.ggml.add_bos_token", BOOL, 1),
    ]


def tensors(options):
    """Yields (name, dimensions, ggml type, bytes). Matrices in the asked-for format, norms in f32."""
    rng = random.Random(options.seed)

    def encoded(name, rows):
        kind, _, encode = FORMATS[options.type]
        data = bytearray()
        count = 0
        for row in rows:
            data += encode(row)
            count += 1
        return name, (len(row), count), kind, bytes(data)

    def noise(columns, deviation):
        return array.array("d", (rng.gauss(0.0, deviation) for _ in range(columns)))

    def matrix(name, columns, rows, deviation):
        return encoded(name, (noise(columns, deviation) for _ in range(rows)))

    def norm(name):
        return name, (options.embedding,), 0, f32([rng.uniform(0.5, 1.5) for _ in range(options.embedding)])

    embedding, feed_forward = options.embedding, options.feed_forward
    kv = embedding // options.heads * options.kv_heads
    # Deviations keep every layer's share of the residual stream near that of the embedding, so that all layers decide
    # about the next token.
    inner = embedding ** -0.5
    tokens = [noise(embedding, 1.0) for _ in range(VOCABULARY)]
    yield encoded("token_embd.weight", tokens)
    for layer in range(options.layers):
        prefix = f"blk.{layer}."
        yield norm(prefix + "attn_norm.weight")
        yield matrix(prefix + "attn_q.weight", embedding, embedding, 1.5 * inner)
        yield matrix(prefix + "attn_k.weight", embedding, kv, 1.5 * inner)
        yield matrix(prefix + "attn_v.weight", embedding, kv, inner)
        yield matrix(prefix + "attn_output.weight", embedding, embedding, inner)
        yield norm(prefix + "ffn_norm.weight")
        yield matrix(prefix + "ffn_gate.weight", embedding, feed_forward, 1.5 * inner)
        yield matrix(prefix + "ffn_up.weight", embedding, feed_forward, inner)
        yield matrix(prefix + "ffn_down.weight", feed_forward, embedding, feed_forward ** -0.5)
    yield norm("output_norm.weight")
    # Every token has a token that tends to precede it. Purely random weights would leave the best two tokens closer to each
    # other than two correct implementations are.
    predecessors = rng.sample(tokens, len(tokens))
    yield encoded("output.weight", (array.array("d", (4.0 * inner * (a + rng.gauss(0.0, 1.0)) for a in token))
                                    for token in predecessors))


def padding(length):
    return b"\0" * (-length % TENSOR_ALIGNMENT)


def write(options):
    infos, blob = b"", bytearray()
    count = 0
    for name, dimensions, kind, data in tensors(options):
        infos += string(name) + struct.pack("<I", len(dimensions)) + struct.pack(f"<{len(dimensions)}Q", *dimensions)
        infos += struct.pack("<IQ", kind, len(blob))
        blob += data + padding(len(data))
        count += 1
    entries = metadata(options)
    head = b"GGUF" + struct.pack("<IQQ", 3, count, len(entries)) + b"".join(entries) + infos
    with open(options.out, "wb") as out:
        out.write(head + padding(len(head)) + blob)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--type", choices=[name for name in FORMATS if name != "f32"], default="q8_0")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--embedding", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--feed-forward", type=int, default=512)
    options = parser.parse_args()
    if options.embedding % 256 or options.feed_forward % 256:
        sys.exit("embedding and feed-forward lengths must be multiples of 256 (q4_K's block)")
    if options.embedding % options.heads or options.heads % options.kv_heads:
        sys.exit("heads must divide the embedding length, kv heads the heads")
    write(options)


if __name__ == "__main__":
    main()
