"""Trained generators as ONNX or OpenVINO models: conversion, and the measured difference to PyTorch."""
