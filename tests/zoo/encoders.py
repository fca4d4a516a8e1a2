"""Encoders, as `load_classifier` takes them: of proteins, of texts, and some that are none."""

import torch
from torch import nn
from transformers import BertConfig, PreTrainedModel, T5EncoderModel
from transformers.modeling_outputs import BaseModelOutput

from boostlib.models.classifier import SequenceClassifier
from zoo.kinds import DROP, encoder, given, seeded

encoder("bert")
encoder("esm", position_embedding_type="rotary", mask_token_id=4)
encoder("esm absolute", "esm", position_embedding_type="absolute", mask_token_id=4, max_position_embeddings=64)
encoder("roberta", max_position_embeddings=66, pad_token_id=1)
encoder("deberta-v2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False)
encoder("deberta")
encoder("modernbert", local_attention=16, cls_token_id=2, sep_token_id=3)
encoder("distilbert", dim=32, n_heads=4, n_layers=2, hidden_dim=48)
encoder("albert", embedding_size=16)
encoder("nystromformer")
encoder("roformer", embedding_size=32)
encoder("mpnet", max_position_embeddings=66, pad_token_id=1)
encoder("convbert", embedding_size=32)
encoder("squeezebert", embedding_size=32)


T5 = dict(d_kv=8, d_ff=48, num_decoder_layers=2, num_heads=4, decoder_start_token_id=0)
encoder("t5", **T5)
encoder("t5 encoder", "t5", build=T5EncoderModel, **T5)
encoder("bart", decoder_ffn_dim=48, encoder_ffn_dim=48, decoder_layers=2, encoder_layers=2, decoder_attention_heads=4,
        encoder_attention_heads=4, decoder_start_token_id=0)  # fmt: skip
encoder("longformer", max_position_embeddings=130, attention_window=[8, 8], pad_token_id=1)
encoder("big_bird", attention_type="block_sparse", block_size=4, num_random_blocks=1)
encoder("fnet")
encoder("ibert", max_position_embeddings=66, pad_token_id=1)
encoder("xlnet", n_head=4, d_inner=48, max_position_embeddings=DROP)
encoder("xlm", emb_dim=32, n_heads=4)
encoder("eurobert")
encoder("llama", bos_token_id=2)
encoder("gpt2")
encoder("mistral", sliding_window=8, bos_token_id=2)
encoder("mamba", state_size=8, time_step_rank=6)


class Attention(nn.Module):
    """torch's own attention, which reads the weight of its `out_proj` without calling it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x, padded):
        x = x + self.attention(x, x, x, key_padding_mask=padded, need_weights=False)[0]
        return x + self.down(torch.relu(self.up(x)))


class OwnEncoder(PreTrainedModel):
    """Two blocks of torch's own modules."""

    config_class = BertConfig

    def __init__(self, config, block=Attention):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, 32)
        self.layers = nn.ModuleList(block() for _ in range(2))

    def forward(self, input_ids, attention_mask, **_):
        x = self.embeddings(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask == 0)
        return BaseModelOutput(last_hidden_state=x)


class Transformer(nn.TransformerEncoderLayer):
    """torch's own block, which has a fast path that reads the weights of its layers without calling them."""

    def __init__(self):
        super().__init__(32, 4, 48, batch_first=True, dropout=0.1)

    def forward(self, x, padded):
        return super().forward(x, src_key_padding_mask=padded)


def own(block):
    return lambda: classifier(seeded(lambda: OwnEncoder(BertConfig(vocab_size=25, hidden_size=32), block)))


def classifier(encoder) -> SequenceClassifier:
    model = SequenceClassifier(encoder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.head.weight.data.normal_()
    return model.eval()


given("torch attention", own(Attention), encoder=True)
given("torch transformer layer", own(Transformer), encoder=True)
