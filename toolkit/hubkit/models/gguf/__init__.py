"""GGUF files for llama.cpp, Ollama and LM Studio: written from a model folder, read back, and run by llama.cpp."""
