/* GPT-2's merge table (tokenizer/vocab.bpe, tokenizer/vocab.LICENSE), built into the program. */
	.section .rodata
	.global vocab_gpt2_begin
	.global vocab_gpt2_end
vocab_gpt2_begin:
	.incbin "tokenizer/vocab.bpe"
vocab_gpt2_end:
	.byte 0
	.section .note.GNU-stack, "", %progbits
