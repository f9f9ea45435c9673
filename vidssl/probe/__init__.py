"""Probes on frozen features: neighbours, a linear or attentive classifier, few shots, retrieval.

Pure functions of arrays: features and labels in, scores of each video out. What cannot be read has
no features; whoever calls counts it as wrong. Classes are numbers from 0 to K - 1.
"""
